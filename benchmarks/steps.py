"""A step of a training stage, as the training loop takes it but for the reading of its losses."""

from typing import Any

import torch
from torch import Tensor

from prologue.training.optimizers import gradient_norm


def take_step(task: Any, number: int, batch: Any) -> list[Tensor]:
    """Take step `number` of a task on a batch; returns its losses and gradient norms, on the device."""
    losses = task.gradients(number, batch)
    norms = {name: gradient_norm(optimizer) for name, optimizer in task.state.optimizers.items()}
    task.update(number, norms, torch.zeros((), device=task.accelerator.device))
    return [*losses.values(), *norms.values()]
