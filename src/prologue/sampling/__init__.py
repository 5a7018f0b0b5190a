"""Sampling from the AR model: `generate`, with `Guidance` and `Temperatures`."""

from prologue.sampling.generation import Temperatures, generate
from prologue.sampling.guidance import Guidance

__all__ = ["Guidance", "Temperatures", "generate"]
