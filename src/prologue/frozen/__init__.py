"""Pretrained networks that are never trained, and what is computed with them."""
