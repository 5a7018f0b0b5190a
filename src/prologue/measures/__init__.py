"""Pure functions of tensors that training and evaluation both measure by, and the registry of all metrics."""
