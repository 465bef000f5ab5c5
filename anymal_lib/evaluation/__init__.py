"""Everything that is measured at the end, beside the paper (notebook 07)."""
