"""The throughput benchmark of notebook 11: ratios of steps that alternate in one run."""
