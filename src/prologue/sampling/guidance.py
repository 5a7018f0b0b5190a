"""Classifier-free guidance: one scale per position, separate for prologue and visual tokens (Sec. 2.2, Tab. A5)."""

import math
from dataclasses import dataclass

from prologue.models.vocabulary import Vocabulary


@dataclass(frozen=True)
class Guidance:
    """logits = s * conditional + (1 - s) * unconditional.

    Attributes:
        prologue: constant scale of the prologue tokens.
        visual: largest scale S of the visual tokens' cosine schedule.
        power: exponent of the schedule's time; smaller rises earlier.
    """

    prologue: float
    visual: float
    power: float

    def scale(self, position: int, vocabulary: Vocabulary) -> float:
        """Scale at a predicted position; visual: s(t) = 1 + (S - 1)(1 - cos(pi t^power)) / 2.

        t counts from the first position after the prologue, EOS included, over that segment's length.
        """
        step = position - vocabulary.prologue_tokens
        if step < 0:
            return self.prologue
        time = step / (vocabulary.length - vocabulary.prologue_tokens)
        return 1 + (self.visual - 1) * (1 - math.cos(math.pi * time**self.power)) / 2
