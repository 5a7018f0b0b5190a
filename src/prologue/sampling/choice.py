"""Choosing an id from logits: temperature, top-k, top-p, and a draw that the image's own random numbers decide."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from prologue.core.runtime import WITHOUT_FLOAT64


@dataclass(frozen=True)
class Choice:
    """How ids of a segment are chosen.

    Attributes:
        temperature: divisor of the logits; 0 takes the most likely id.
        top_k: only so many of the most likely ids; 0 = all.
        top_p: only the most likely ids that together reach this probability.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def draw(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """One id per row: logits fp32 (B, V), uniforms float64 (B,) in [0, 1) -> int64 (B,)."""
        if logits.device.type in WITHOUT_FLOAT64:  # the draw needs them
            return self.draw(logits.cpu(), uniforms.cpu()).to(logits.device)
        if self.temperature == 0 or self.top_k == 1:
            return logits.argmax(dim=-1)
        logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        probabilities = F.softmax(logits, dim=-1)
        if self.top_p < 1:
            probabilities = self._nucleus(probabilities)
        cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
        drawn = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)[:, 0]
        return drawn.clamp_max(logits.shape[-1] - 1)

    def _nucleus(self, probabilities: Tensor) -> Tensor:
        """Probabilities (B, V) with those outside the most likely ids that reach `top_p` set to 0."""
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered
        return torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(before >= self.top_p, 0))


@dataclass(frozen=True)
class Choices:
    """How ids of each segment are chosen."""

    prologue: Choice = Choice()
    visual: Choice = Choice()
