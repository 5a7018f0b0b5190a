"""Random draws of a global batch: the same whatever the number of processes, and after any resume."""

import torch
from accelerate import Accelerator
from torch import Tensor

from prologue.core.seeds import Stream, derive_seed
from prologue.core.sharing import own_rows


class Draws:
    """The draws of one step for this process's slice of the global batch."""

    def __init__(self, seed: int, step: int, batch: int, accelerator: Accelerator) -> None:
        self._seed, self._step, self._batch = seed, step, batch
        self._own = own_rows(batch, accelerator.process_index, accelerator.num_processes)
        self._device = accelerator.device

    def marks(self, stream: Stream, probability: float) -> Tensor:
        """Which images are drawn, each with a probability: bool (batch / processes,)."""
        drawn = torch.rand(self._batch, generator=self._generator(stream)) < probability
        return drawn[self._own].to(self._device)

    def dropout_keys(self) -> Tensor:
        """One key per image for `RowDropout`: int32 (batch / processes,)."""
        drawn = torch.randint(-(2**31), 2**31, (self._batch,), generator=self._generator(Stream.DROPOUT))
        return drawn[self._own].to(self._device, torch.int32)

    def _generator(self, stream: Stream) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(stream, self._seed, self._step))
