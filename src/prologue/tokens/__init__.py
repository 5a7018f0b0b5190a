"""The cached ids of a dataset, and what an AR model says of them."""
