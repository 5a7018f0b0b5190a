"""Random draws of a global batch: the same whatever the number of processes, and after any resume."""

import torch
from accelerate import Accelerator
from torch import Tensor

from prologue.data.order import share_of
from prologue.runtime import derive_seed


def draw_share(share: float, seed: int, step: int, batch: int, accelerator: Accelerator) -> Tensor:
    """Which images of this process's slice are in a random share of the global batch: bool (batch / processes,)."""
    generator = torch.Generator().manual_seed(derive_seed(seed, step))
    drawn = torch.rand(batch, generator=generator) < share
    own = share_of(batch, accelerator.process_index, accelerator.num_processes)
    return drawn[own].to(accelerator.device)
