"""Training: the loop, the objectives of both stages, and their parts."""
