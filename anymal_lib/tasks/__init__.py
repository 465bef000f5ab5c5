"""Tasks of evaluation: what each asks, how it is decoded and scored, and running one on rows."""
