"""Sampling from the AR model."""
