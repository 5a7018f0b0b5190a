"""Distances and scores of features, by torch-fidelity's functions in float64, with the inputs checked first."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from prologue.core.errors import PrologueError

P = ParamSpec("P")
R = TypeVar("R")
SPLITS = 10  # of the inception score
DISTANCE_ROWS = 2000  # rows of the distance matrix in memory at once
KID_SUBSETS, KID_SUBSET = 100, 1000  # random subsets of images, of which the kernel distance is the mean
SAME = 1e-5  # features that differ by less, relative to the largest, are of equal images


def _on_one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """The function with its BLAS on one thread, since the last digits would depend on the number of cores."""
    limited: Callable[P, R] = threadpool_limits.wrap(limits=1, user_api="blas")(function)
    return limited


@dataclass(frozen=True)
class Statistics:
    """Mean (D,) and covariance (D, D) of features, float64."""

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]


@_on_one_thread
def statistics(features: Tensor) -> Statistics:
    """Mean and covariance of float features (N, D). Raises PrologueError for unusable features."""
    return Statistics(**fid_features_to_statistics(_checked(features, least=2)))


@_on_one_thread
def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Frechet distance of two Gaussians. Raises PrologueError for statistics of different networks or not finite."""
    _same_network(len(a.mu), len(b.mu))
    if not all(np.isfinite(part).all() for part in (a.mu, a.sigma, b.mu, b.sigma)):
        raise PrologueError("statistics with values that are not finite; make them again")
    result = fid_statistics_to_metric(vars(a), vars(b), verbose=False)
    return float(result["frechet_inception_distance"])


@_on_one_thread
def inception_score(logits: Tensor) -> tuple[float, float]:
    """Inception score of float logits (N, C), shuffled, in 10 splits: their mean and standard deviation.

    Raises:
        PrologueError: fewer than 10 images, or unusable logits.
    """
    result = isc_features_to_metric(_checked(logits, least=SPLITS), splits=SPLITS)
    return result["inception_score_mean"], result["inception_score_std"]


@_on_one_thread
def precision_recall(generated: Tensor, real: Tensor, neighbours: int) -> tuple[float, float]:
    """Improved precision and recall of float features (N, D) and (M, D), by the `neighbours` nearest neighbours.

    Precision is the share of generated images inside the real ones' manifold, recall the reverse.

    Raises:
        PrologueError: no more than `neighbours` images, or unusable features.
    """
    a, b = _checked(generated, least=neighbours + 1), _checked(real, least=neighbours + 1)
    _same_network(a.shape[1], b.shape[1])
    result = prc_features_to_metric(  # the first set is the generated one
        a,
        b,
        prc_neighborhood=neighbours,
        prc_batch_size=DISTANCE_ROWS,
        save_cpu_ram=True,
        verbose=False,
    )
    return result["precision"], result["recall"]


@_on_one_thread
def kernel_distance(generated: Tensor, real: Tensor) -> tuple[float, float]:
    """Kernel distance (KID) of float features (N, D) and (M, D): mean and standard deviation over 100 random subsets.

    The kernel is (x y / D + 1)^3; subsets have 1,000 images of each side, or all of the smaller side. Where they would
    all be the same there is one, and no deviation.

    Raises:
        PrologueError: unusable features.
    """
    a, b = _checked(generated, least=2), _checked(real, least=2)
    _same_network(a.shape[1], b.shape[1])
    size = min(KID_SUBSET, len(a), len(b))
    subsets = 1 if len(a) == len(b) == size else KID_SUBSETS
    result = kid_features_to_metric(a, b, kid_subsets=subsets, kid_subset_size=size, verbose=False)
    return result["kernel_inception_distance_mean"], result["kernel_inception_distance_std"]


def _same_network(a: int, b: int) -> None:
    if a != b:
        raise PrologueError(f"features of {a} and {b} dimensions: statistics of two different networks")


def _checked(features: Tensor, least: int) -> Tensor:
    """Features as float64 after the checks that all metrics share."""
    if features.ndim != 2 or not features.is_floating_point():
        raise PrologueError(f"features must be float (N, D), got {features.dtype} {tuple(features.shape)}")
    if len(features) < max(least, 2):
        raise PrologueError(
            f"{len(features)} images are too few for this metric, which needs at least {max(least, 2)}; in "
            "the pipeline sampling.images and data.val_limit say how many there are"
        )
    if not torch.isfinite(features).all():
        bad = int((~torch.isfinite(features)).any(dim=1).sum())
        raise PrologueError(
            f"features of {bad} of {len(features)} images are not finite: the images or network are broken"
        )
    spread = (features - features[0]).abs().max()
    if spread <= SAME * features.abs().max():
        raise PrologueError(f"all {len(features)} images are equal: there is no distribution to measure")
    return features.double()
