"""Exponential moving average of a model's weights, by half-life in steps."""

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class EMA(Generic[Model]):
    """A frozen copy of a model that follows it; after `half_life` steps half of what it held is gone."""

    def __init__(self, model: Model, half_life: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = 0.5 ** (1 / half_life)

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Move towards the weights of `model` after one step."""
        own: list[Tensor] = list(self.model.parameters())
        other: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(own, other, 1 - self.decay)
