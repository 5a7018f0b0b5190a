"""How long a training is and which learning rate a step has, in steps whatever the params count in."""

import math
from dataclasses import dataclass

from prologue.core.conventions import EPOCHS
from prologue.core.params import LoopParams, ScheduleParams


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, flat at the peak, then linear to `lr_end` at the last step; everything in steps."""

    steps: int
    warmup: int
    flat: int
    lr: float
    lr_end: float

    @classmethod
    def of(cls, params: ScheduleParams, images: int) -> "Schedule":
        """The schedule of a training on `images` images per epoch."""
        steps, warmup, flat = (
            to_steps(duration, images, params.batch) for duration in (params.steps, params.warmup, params.flat)
        )
        return cls(max(1, steps), warmup, flat, params.lr, params.lr_end)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        decay_start = self.warmup + self.flat
        if step < decay_start:
            return self.lr
        share = (step - decay_start) / max(1, self.steps - 1 - decay_start)
        return self.lr + (self.lr_end - self.lr) * share


@dataclass(frozen=True)
class CosineSchedule:
    """MAE's schedule step by step: linear warm-up from 0, then half a cosine that would reach 0 after the last step."""

    steps: int
    warmup: int
    lr: float

    @classmethod
    def of(cls, params: LoopParams, images: int) -> "CosineSchedule":
        """The schedule of a training on `images` images per epoch."""
        steps, warmup = (to_steps(duration, images, params.batch) for duration in (params.steps, params.warmup))
        return cls(max(1, steps), warmup, params.lr)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * step / self.warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / (self.steps - self.warmup)))


def to_steps(duration: int | str, images: int, batch: int) -> int:
    """Steps of a duration of params.yaml: a number of steps, or of epochs as in '1.5epochs'."""
    if isinstance(duration, int):
        return duration
    epochs = EPOCHS.fullmatch(duration)
    assert epochs is not None  # params.yaml was validated
    return round(float(epochs[1]) * images / batch)
