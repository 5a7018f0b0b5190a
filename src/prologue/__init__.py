"""Autoregressive image generation with prologue tokens."""
