"""Seeds derived from several numbers; needs no torch."""

import numpy as np


def derive_seed(*parts: int) -> int:
    """One 63-bit seed from several integers; different tuples give unrelated seeds."""
    return int(np.random.SeedSequence((len(parts), *parts)).generate_state(1, np.uint64)[0] >> 1)
