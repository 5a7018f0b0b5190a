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
PARTS = 5000  # images whose parts in a kernel distance tell how all of them spread, to 1 %
KERNELS = 5_000_000  # in memory at once, for each thread
ROWS = 1024  # images of a resampled set in memory at once, for each thread: all 50,000 take a gigabyte
NORMAL = 1.96  # standard deviations on each side of 95 % of a normal distribution


def frechet_deviations(features: Tensor, references: list[Statistics]) -> list[float]:
    """Bootstrap standard deviation of the Frechet distance of float features (N, D) to each of the references."""
    return [float(deviation) for deviation in frechet_draws(features, references).std(axis=0, ddof=1)]


def frechet_draws(features: Tensor, references: list[Statistics], seed: int = 0) -> NDArray[np.float64]:
    """Frechet distances (RESAMPLES, references) of float features (N, D) that are drawn again with replacement.

    The references stay. Distances of resampled sets are larger than that of the set, since fewer images differ in them,
    but by nearly the same, so that their spread is what counts. It is too wide where the distance is hardly larger than
    that of as many other images of one kind, as an image that comes twice is no new one: of four images a dimension 3
    times there, 1.6 times at 1.6 times that distance, 1.4 times at 3.5 times. Sets of one size are drawn again at the
    same places.
    """
    x = features.double().numpy()
    counts = _counts(len(x), seed)
    with threadpool_limits(1, "blas"):  # the last digits would depend on the number of cores
        roots = [_root(reference.sigma) for reference in references]
        with ThreadPoolExecutor(own_threads()) as pool:
            drawn = list(pool.map(lambda count: _distances(x, count, references, roots), counts))
    return np.array(drawn)


def paired_deviation(features: Tensor, others: Tensor) -> float:
    """Bootstrap standard deviation of the Frechet distance of two float features (N, D) of the same N images.

    An image is drawn with what was made of it: both sets are of the same images. Too wide, up to twice, where the
    distance is no larger than that of as many other images of one kind.
    """
    x, y = features.double().numpy(), others.double().numpy()

    def distance(count: NDArray[np.int64]) -> float:
        mu = count @ y / len(y)
        drawn = Statistics(mu, _covariance(y, count, mu))
        return _distances(x, count, [drawn], [_root(drawn.sigma)])[0]

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(own_threads()) as pool:
        return float(np.std(list(pool.map(distance, _counts(len(x), seed=0))), ddof=1))


def interval(value: float, deviation: float) -> dict[str, float]:
    """The 95 % interval of a normal distribution around a value: low and high."""
    return {"low": value - NORMAL * deviation, "high": value + NORMAL * deviation}


def kernel_deviations(features: Tensor, references: list[Tensor]) -> list[float]:
    """Standard deviation of the kernel distance (KID) of float features (N, D) to each reference (M, D), which stays.

    The part of one of N images is 2 / N times its mean kernel with the others, less that with the reference (Hoeffding
    1948). That is to first order: too wide, up to 1.4 times, where the distance is near 0. Of many images it is
    estimated from PARTS of them, drawn at random: classes may take turns.
    """
    x, others = features.double().numpy(), [reference.double().numpy() for reference in references]
    chosen = x[np.sort(np.random.default_rng(0).permutation(len(x))[:PARTS])]
    size = max(1, KERNELS // len(x))

    def parts(start: int) -> NDArray[np.float64]:
        rows = chosen[start : start + size]
        own = (_kernel(rows, x).sum(axis=1) - ((rows**2).sum(axis=1) / x.shape[1] + 1) ** 3) / (len(x) - 1)
        return np.stack([own - _kernel(rows, y).mean(axis=1) for y in others])

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(own_threads()) as pool:
        found = np.concatenate(list(pool.map(parts, range(0, len(chosen), size))), axis=1)
    return [float(2 * own.std(ddof=1) / math.sqrt(len(x))) for own in found]


def _kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """KID's kernel of x (N, D) and y (M, D), (N, M)."""
    base: NDArray[np.float64] = x @ y.T
    base /= x.shape[1]
    base += 1
    return base * base * base  # powers of arrays take several times as long


def _counts(images: int, seed: int) -> NDArray[np.int64]:
    """How often each image is taken when as many are drawn with replacement, (RESAMPLES, images)."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), RESAMPLES)


def _covariance(x: NDArray[np.float64], count: NDArray[np.int64], mu: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance (D, D) of the images x (N, D), each taken `count` times, whose mean is mu (D,)."""
    covariance = np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, len(x), ROWS):
        part = slice(start, start + ROWS)
        centred = _centred(x[part], count[part], mu, len(x))
        covariance += centred.T @ centred
    return covariance


def _centred(
    x: NDArray[np.float64], count: NDArray[np.int64], mu: NDArray[np.float64], images: int
) -> NDArray[np.float64]:
    """Rows of x less mu, each taken `count` times, scaled so that centred.T @ centred is their part in the covariance.

    `images`: how many are taken in all.
    """
    taken = count > 0
    centred: NDArray[np.float64] = x[taken] - mu
    centred *= np.sqrt(count[taken] / (images - 1))[:, None]
    return centred


def _root(sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric square root of a covariance (D, D)."""
    values, vectors = eigh(sigma)
    root: NDArray[np.float64] = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root


def _distances(
    x: NDArray[np.float64], count: NDArray[np.int64], references: list[Statistics], roots: list[NDArray[np.float64]]
) -> list[float]:
    """Distances of the images x (N, D), each taken `count` times; `roots` are those of the references' covariances."""
    mu = count @ x / len(x)
    few = np.count_nonzero(count) < x.shape[1]
    part = _centred(x, count, mu, len(x)) if few else _covariance(x, count, mu)
    variance = (part**2).sum() if few else np.trace(part)
    distances = []
    for reference, root in zip(references, roots, strict=True):
        # eigenvalues of root @ covariance @ root, which few images have in a smaller product
        product = (turned := part @ root) @ turned.T if few else root @ part @ root
        overlap = np.sqrt(eigvalsh(product, overwrite_a=True).clip(0)).sum()
        moved = ((mu - reference.mu) ** 2).sum()
        distances.append(float(moved + variance + np.trace(reference.sigma) - 2 * overlap))
    return distances
