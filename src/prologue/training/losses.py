"""Losses of steps, which stay on the device until several are read at once, and the flag that stops weights meanwhile.

Reading a number waits for the device, which then waits for Python to launch the next step. So a GPU's losses are read
now and then, and a step whose numbers are not finite is made harmless on the device itself.
"""

import torch
from torch import Tensor

from prologue.training.health import not_finite


class Losses:
    """Named scalars of steps in their order; `broken`, on the device, is 1 from the first on that is not finite."""

    def __init__(self, device: torch.device) -> None:
        self.broken = torch.zeros((), device=device)
        self._waiting: list[tuple[int, list[str], Tensor]] = []

    def add(self, step: int, named: dict[str, Tensor]) -> None:
        """Note the numbers of a step, all on the device."""
        values = torch.stack(list(named.values()))
        self.broken = torch.maximum(self.broken, 1 - values.isfinite().all().float())
        self._waiting.append((step, list(named), values))

    def read(self) -> list[dict[str, float]]:
        """The steps' numbers since the last call. Raises NotFinite for the first step that has one."""
        if not self._waiting:
            return []
        values = iter(torch.cat([own for _, _, own in self._waiting]).tolist())
        steps = [(step, {name: next(values) for name in names}) for step, names, _ in self._waiting]
        self._waiting.clear()
        for step, named in steps:
            if broken := not_finite(named):
                raise NotFinite(step, broken)
        return [named for _, named in steps]


class NotFinite(Exception):
    """Numbers of a step that are NaN or infinite, by name; no weight has moved since."""

    def __init__(self, step: int, names: list[str]) -> None:
        super().__init__(f"step {step}: {names}")
        self.step, self.names = step, names
