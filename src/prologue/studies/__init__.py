"""Studies: a table or figure of the paper as a grid of experiments."""
