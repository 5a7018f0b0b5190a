"""How sure a distance is: intervals by resampling images, as if others had been drawn from the same model."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, eigvalsh
from threadpoolctl import threadpool_limits
from torch import Tensor

from prologue.core.launch import own_threads
from prologue.measures.fidelity import Statistics

RESAMPLES = 40  # enough for a standard deviation (Efron and Tibshirani 1993, Ch. 6)
NORMAL = 1.96  # standard deviations on each side of 95 % of a normal distribution


def frechet_deviations(features: Tensor, references: list[Statistics]) -> list[float]:
    """Bootstrap standard deviation of the Frechet distance of float features (N, D) to each of the references."""
    return [float(deviation) for deviation in frechet_draws(features, references).std(axis=0, ddof=1)]


def frechet_draws(features: Tensor, references: list[Statistics], seed: int = 0) -> NDArray[np.float64]:
    """Frechet distances (RESAMPLES, references) of float features (N, D) that are drawn again with replacement.

    The references stay. Distances of resampled sets are larger than that of the set, since fewer images differ in them,
    but by nearly the same, so that their spread is what counts. Sets of one size are drawn again at the same places.
    """
    x = features.double().numpy()
    counts = np.random.default_rng(seed).multinomial(len(x), np.full(len(x), 1 / len(x)), RESAMPLES)
    with threadpool_limits(1, "blas"):  # the last digits would depend on the number of cores
        turned = [x @ _root(reference.sigma) for reference in references]
        with ThreadPoolExecutor(own_threads()) as pool:
            drawn = list(pool.map(lambda count: _distances(x, count, references, turned), counts))
    return np.array(drawn)


def interval(value: float, deviation: float) -> dict[str, float]:
    """The 95 % interval of a normal distribution around a value: low and high."""
    return {"low": value - NORMAL * deviation, "high": value + NORMAL * deviation}


def subset_deviation(deviation: float, subset: int, images: int) -> float:
    """Standard deviation of a mean over all images, from that of its values in random subsets without replacement.

    A subset of m of n images varies by 1/m - 1/n, and n images drawn again by 1/n (Politis and Romano 1994); m < n.
    """
    return deviation * math.sqrt(subset / (images - subset))


def _root(sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric square root of a covariance (D, D)."""
    values, vectors = eigh(sigma)
    root: NDArray[np.float64] = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root


def _distances(
    x: NDArray[np.float64], counts: NDArray[np.int64], references: list[Statistics], turned: list[NDArray[np.float64]]
) -> list[float]:
    """Distances of the images x (N, D), each taken `counts` times; `turned` is x times each reference's root."""
    mu = counts @ x / len(x)
    variance = (counts @ (x - mu) ** 2).sum() / (len(x) - 1)
    taken = counts > 0
    weights = np.sqrt(counts[taken] / (len(x) - 1))[:, None]
    distances = []
    for reference, rows in zip(references, turned, strict=True):
        centred = (rows[taken] - counts @ rows / len(x)) * weights
        # eigenvalues of root @ sigma @ root, which are those of the smaller of both products
        product = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
        overlap = np.sqrt(eigvalsh(product, overwrite_a=True).clip(0)).sum()
        moved = ((mu - reference.mu) ** 2).sum()
        distances.append(float(moved + variance + np.trace(reference.sigma) - 2 * overlap))
    return distances
