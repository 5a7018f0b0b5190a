"""Sampling from the AR model: `generate`, with `Guidance` and `Choices`."""

from prologue.sampling.choice import Choice, Choices
from prologue.sampling.generation import generate
from prologue.sampling.guidance import Guidance

__all__ = ["Choice", "Choices", "Guidance", "generate"]
