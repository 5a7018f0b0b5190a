"""Classifier-free guidance: one scale per position, separate for prologue and visual tokens (Sec. 2.2, Tab. A5)."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from prologue.models.vocabulary import Vocabulary

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class Guidance:
    """The scale s of logits = s * conditional + (1 - s) * unconditional.

    Attributes:
        prologue: (largest) scale of the prologue tokens.
        visual: largest scale S of the visual tokens.
        power: exponent of the visual schedule's time; smaller rises earlier.
        schedule: how the visual scale rises from 1 to S: constant stays at S.
        prologue_power, prologue_schedule: the same of the prologue's.
    """

    prologue: float
    visual: float
    power: float = 1.0
    schedule: Schedule = "cosine"
    prologue_power: float = 1.0
    prologue_schedule: Schedule = "constant"

    def scale(self, position: int, vocabulary: Vocabulary) -> float:
        """Scale at a predicted position: cosine 1 + (S - 1) (1 - cos(pi t^power)) / 2, linear 1 + (S - 1) t^power.

        t counts from the segment's first position over its length; the visual segment begins with EOS.
        """
        step = position - vocabulary.prologue_tokens
        if step < 0:
            time = position / vocabulary.prologue_tokens
            return rising(self.prologue, self.prologue_schedule, time**self.prologue_power)
        time = step / (vocabulary.length - vocabulary.prologue_tokens)
        return rising(self.visual, self.schedule, time**self.power)


def guided(logits: Tensor, scale: Tensor | float) -> Tensor:
    """Logits mixed at a scale: (2 B, ids), conditional then unconditional -> (B, ids)."""
    conditional, unconditional = logits.chunk(2)
    return scale * conditional + (1 - scale) * unconditional


def rising(scale: float, schedule: Schedule, time: float) -> float:
    """A scale on its way from 1, at time 0, to `scale`, at time 1."""
    share = {"constant": 1.0, "linear": time, "cosine": (1 - math.cos(math.pi * time)) / 2}[schedule]
    return 1 + (scale - 1) * share
