"""The offline site under reports/: the report of a run, a page per study, and comparisons of two experiments."""
