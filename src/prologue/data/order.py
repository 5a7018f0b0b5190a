"""Which samples a step sees, a function of the step alone, so any start resumes and any launch agrees; and which of
many stand for all."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from prologue.core.seeds import Stream, derive_seed

SPREAD = 1000  # validation images of a point of a curve


def epoch_indices(count: int, seed: int, batch: int, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Epochs and sample indices, each int64 (batch,), of the global batch of a step.

    Step s holds places s * batch to (s + 1) * batch of the endless row of epochs, each a permutation of all samples.
    """
    epochs, positions = np.divmod(step * batch + np.arange(batch), count)
    indices = np.empty(batch, np.int64)
    for epoch in np.unique(epochs):
        members = epochs == epoch
        indices[members] = _permutation(seed, int(epoch), count)[positions[members]]
    return epochs, indices


@lru_cache(maxsize=2)  # a batch may straddle two epochs
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng(derive_seed(Stream.ORDER, seed, epoch)).permutation(count)


def evenly_spaced(length: int, count: int) -> NDArray[np.int64]:
    """Up to `count` positions of `length`, from the first to the last."""
    return np.linspace(0, length - 1, min(count, length)).round().astype(np.int64)


def spread(count: int) -> NDArray[np.int64]:
    """Up to 1,000 indices below `count`, always the same, so that the points of a curve compare."""
    return evenly_spaced(count, SPREAD)
