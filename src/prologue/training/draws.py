"""Random draws of a global batch: the same whatever the number of processes, and after any resume."""

from enum import IntEnum

import torch
from accelerate import Accelerator
from torch import Tensor

from prologue.data.order import share_of
from prologue.seeds import derive_seed


class Stream(IntEnum):
    """What is drawn; each stream is independent of the others, and of those of data order and augmentation."""

    LABEL_DROP = 3
    VISUAL_DROPOUT = 4
    DROPOUT = 5


class Draws:
    """The draws of one step for this process's slice of the global batch."""

    def __init__(self, seed: int, step: int, batch: int, accelerator: Accelerator) -> None:
        self._seed, self._step, self._batch = seed, step, batch
        self._own = share_of(batch, accelerator.process_index, accelerator.num_processes)
        self._device = accelerator.device

    def share(self, stream: Stream, share: float) -> Tensor:
        """Which images are in a random share of all: bool (batch / processes,)."""
        drawn = torch.rand(self._batch, generator=self._generator(stream)) < share
        return drawn[self._own].to(self._device)

    def dropout_keys(self) -> Tensor:
        """One key per image for `RowDropout`: int32 (batch / processes,)."""
        drawn = torch.randint(-(2**31), 2**31, (self._batch,), generator=self._generator(Stream.DROPOUT))
        return drawn[self._own].to(self._device, torch.int32)

    def _generator(self, stream: Stream) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(stream, self._seed, self._step))
