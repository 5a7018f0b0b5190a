"""Ids drawn without a model: each as often as at its position in images of its class. What has learned is closer."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prologue.core.seeds import derive_seed
from prologue.data.order import evenly_spaced
from prologue.tokens.cache import TokenCache

IMAGES = 1000  # of a class, at most, that ids are taken from
FEWEST = 10  # of a class: of one image all ids would be its own
INDEPENDENT = 4 * 10**9  # seed, apart from those of the samples


def independent_ids(cache: TokenCache, labels: NDArray[np.int64], seed: int) -> Tensor:
    """Visual ids (N, Nv) of one image per label: that at each position is an image's of the class, drawn for it alone.

    A class with hardly any images in the cache takes those of all.
    """
    rng = np.random.default_rng(derive_seed(seed, INDEPENDENT))
    ids = torch.empty(len(labels), cache.vocabulary.visual_tokens, dtype=torch.long)
    for label in np.unique(labels):
        wanted = np.flatnonzero(labels == label)
        own = np.flatnonzero(cache.labels == label)
        pool = own if len(own) >= FEWEST else np.arange(len(cache))
        visual = cache.read(pool[evenly_spaced(len(pool), IMAGES)]).visual
        chosen = torch.from_numpy(rng.integers(len(visual), size=(len(wanted), ids.shape[1])))
        ids[wanted] = visual.gather(0, chosen)
    return ids
