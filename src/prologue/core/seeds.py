"""Seeds derived from several numbers, and the streams of random numbers that keep them apart; needs no torch."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What is drawn at random while training; each stream is independent of the others."""

    ORDER = 1  # of the images of an epoch
    AUGMENTATION = 2
    LABEL_DROP = 3
    VISUAL_DROPOUT = 4
    DROPOUT = 5


def derive_seed(*parts: int) -> int:
    """One 63-bit seed from several integers; different tuples give unrelated seeds."""
    return int(np.random.SeedSequence((len(parts), *parts)).generate_state(1, np.uint64)[0] >> 1)
