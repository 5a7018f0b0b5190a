"""How close generated images come to real ones, and to reconstructions of them: the generator's own part (Sec. 2.1)."""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from prologue.core.conventions import SAMPLING_RUNS
from prologue.core.errors import PrologueError
from prologue.core.files import sha256
from prologue.core.launch import own_threads
from prologue.core.params import Params
from prologue.core.runtime import start_accelerator
from prologue.evaluation.features import Features, extract
from prologue.evaluation.image_sets import NpzImages
from prologue.evaluation.reference import Reference, load_reference
from prologue.frozen.extractor import Extractor
from prologue.measures.fidelity import (
    KID_SUBSET,
    KID_SUBSETS,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
    statistics,
)
from prologue.measures.intervals import frechet_deviations, interval, kernel_deviations
from prologue.measures.registry import metric_name


def evaluate_generation(
    params: Params, samples_folder: Path, reference_folder: Path, reconstructions_folder: Path
) -> dict[str, Any]:
    """Compare samples_folder/{cfg,no_cfg}.npz with the reference, and with reconstructions of its images.

    A generator that had learned its tokens perfectly would still be as far from real images as their reconstructions
    are; from those it would be as far as other reconstructions are, the floor.

    Returns:
        For each run the metrics of `compare_with_reference`, the same to_reconstructions, and 95 % intervals of
        distances; floor, the distance that as many other reconstructions would have in the mean; independent, those of
        images whose ids know nothing of each other; swapped, with a prologue, what class images have that were drawn
        with the prologue of another's; real_is, the score of the real images, and the protocol.

    Raises:
        PrologueError: samples or reference are missing, unusable, or do not belong together.
    """
    accelerator = start_accelerator()
    name = params.evaluation.extractor
    reference = load_reference(reference_folder, name)
    reconstructions = load_reference(reconstructions_folder, name)
    size = reference.protocol["image_size"]
    samples = {run: NpzImages(samples_folder / f"{run}.npz") for run in SAMPLING_RUNS}
    for run, images in samples.items():
        if images.shape[1:3] != (size, size):
            raise PrologueError(
                f"{samples_folder / run}.npz holds {images.shape[2]} px images, but the reference in "
                f"{reference_folder} is of {size} px; run `dvc repro`"
            )
    extractor = Extractor(name, accelerator.device)
    batch = params.evaluation.batch
    features = {run: extract(extractor, images, batch, accelerator) for run, images in samples.items()}
    measure = partial(
        _compare_with_both,
        reference=reference,
        reconstructions=reconstructions,
        extractor=name,
        neighbours=params.evaluation.neighbours,
    )
    # both runs at once, since kernel distances take one thread most of the time
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(own_threads()) as pool:
        metrics: dict[str, Any] = dict(zip(features, pool.map(measure, features.values()), strict=True))
    for run in metrics:
        metrics[run]["samples_sha256"] = sha256(samples_folder / f"{run}.npz")
    independent = extract(extractor, NpzImages(samples_folder / "independent.npz"), batch, accelerator)
    metrics["independent"] = _distance_to_both(independent, reference, reconstructions, name)
    if (samples_folder / "swapped.npz").is_file():
        swapped = extract(extractor, NpzImages(samples_folder / "swapped.npz"), batch, accelerator)
        metrics["swapped"] = _classes_of_swapped(swapped.pool, features["cfg"].pool, samples_folder)
    known = {"is", *extractor.protocol}
    return {
        **metrics,
        "floor": {metric_name("gfd", name): floor(reconstructions, len(samples["no_cfg"]))},
        metric_name("real_is", name): reference.protocol["is"],
        "neighbours": params.evaluation.neighbours,
        **extractor.protocol,
        **{f"reference_{key}": value for key, value in reference.protocol.items() if key not in known},
    }


def _compare_with_both(
    features: Features, reference: Reference, reconstructions: Reference, extractor: str, neighbours: int
) -> dict[str, Any]:
    """Metrics of a run of samples against real images and reconstructions, with the intervals of their distances."""
    metrics = compare_with_reference(features, reference, extractor, neighbours, "gfd")
    own = _distances(features, reconstructions, extractor, neighbours, "gfd")
    assert reference.manifold is not None
    assert reconstructions.manifold is not None
    frechets = frechet_deviations(features.pool, [reference.statistics, reconstructions.statistics])
    kernels = kernel_deviations(features.pool, [reference.manifold, reconstructions.manifold])
    for compared, frechet, kernel in zip((metrics, own), frechets, kernels, strict=True):
        compared["interval"] = _intervals(compared, frechet, kernel, extractor)
    return metrics | {"to_reconstructions": own}


def _distance_to_both(
    features: Features, reference: Reference, reconstructions: Reference, extractor: str
) -> dict[str, Any]:
    """Frechet distances of images to real ones and to reconstructions, with their intervals."""
    name, references = metric_name("gfd", extractor), (reference, reconstructions)
    deviations = frechet_deviations(features.pool, [compared.statistics for compared in references])
    both: list[dict[str, Any]] = []
    for compared, deviation in zip(references, deviations, strict=True):
        distance = distance_to(compared, features)
        both.append({name: distance, "interval": {name: interval(distance, deviation)}})
    return {**both[0], "to_reconstructions": both[1]}


def _classes_of_swapped(swapped: Tensor, samples: Tensor, folder: Path) -> dict[str, Any]:
    """Shares of the swapped images that look like their own class, and like that of their prologue.

    A class looks like the mean features of its guided samples; `samples` is the share of those that look like the
    others of theirs, where there are others.
    """
    with np.load(folder / "cfg.npz") as file:
        labels = torch.from_numpy(file["arr_1"])
    with np.load(folder / "swapped.npz") as file:
        own, others = (torch.from_numpy(file[key]) for key in ("arr_1", "arr_2"))
    known = labels.unique()
    means = torch.stack([samples[labels == label].mean(dim=0) for label in known])
    looks = known[torch.cdist(swapped, means).argmin(dim=1)]
    shares = {"own_class": looks == own, "prologue_class": looks == others}
    if len(alike := _look_like_others(samples, labels, known, means)):
        shares["samples"] = alike
    return {**{key: share.float().mean().item() for key, share in shares.items()}, "images": len(own)}


def _look_like_others(samples: Tensor, labels: Tensor, known: Tensor, means: Tensor) -> Tensor:
    """Whether samples (N, D) are nearest to the mean of the others of their class, of those that have others."""
    own = labels[:, None] == known
    images = own.sum(dim=0)
    # without itself, the mean of k is k / (k - 1) times as far away
    distances = torch.cdist(samples, means) * torch.where(own, images / (images - 1).clamp(min=1), 1.0)
    return (known[distances.argmin(dim=1)] == labels)[(own & (images > 1)).any(dim=1)]


def _intervals(metrics: dict[str, Any], frechet: float, kernel: float, extractor: str) -> dict[str, dict[str, float]]:
    """95 % intervals of both distances by their deviations; that of KID is also the mean of random subsets."""
    distance, kid = metric_name("gfd", extractor), metric_name("kid", extractor)
    of_subsets = metrics[metric_name("kid_std", extractor)] / math.sqrt(KID_SUBSETS)
    return {
        distance: interval(metrics[distance], frechet),
        kid: interval(metrics[kid], math.hypot(kernel, of_subsets)),
    }


def floor(reconstructions: Reference, images: int) -> float:
    """Distance that so many other reconstructions would have to these in the mean, and so a perfect generator.

    The distance of one half of the manifold to the other, carried to the numbers of images that are compared: sets of
    n and m images of one distribution lie apart in proportion to 1/n + 1/m (Chong and Forsyth 2020). Where a half has
    fewer images than features have dimensions, the distance grows less than that, and this is up to a third too low.
    """
    assert reconstructions.manifold is not None
    halves = reconstructions.manifold[::2], reconstructions.manifold[1::2]
    measured = frechet_distance(*map(statistics, halves))
    here, there = sum(1 / len(half) for half in halves), 1 / images + 1 / reconstructions.protocol["images"]
    return measured * there / here


def compare_with_reference(
    features: Features, reference: Reference, extractor: str, neighbours: int, distance: str
) -> dict[str, Any]:
    """Metrics of samples (as ADM's, Dhariwal and Nichol 2021): each name says which extractor computed it.

    The pipeline compares with validation images of the shards; `prologue evaluate --reference` with ADM's own file.

    Returns:
        The Frechet distance, called `distance`; the inception score (10 splits) and its deviation; precision, recall
        and KID with its deviation, where the reference has features and not statistics alone; numbers of images.

    Raises:
        PrologueError: unusable samples (too few, equal, grey where the real ones have colours ...), or a reference
            that is no better.
    """
    return _distances(features, reference, extractor, neighbours, distance) | score(features, extractor)


def score(features: Features, extractor: str) -> dict[str, float]:
    """The inception score and its deviation, which need no reference. Raises as `inception_score`."""
    value, deviation = inception_score(features.logits)
    return {metric_name("is", extractor): value, metric_name("is_std", extractor): deviation}


def distance_to(reference: Reference, features: Features) -> float:
    """The Frechet distance. Raises PrologueError for samples that are grey where the real images are not."""
    if reference.protocol["coloured"] and not features.coloured:
        raise PrologueError("the samples are grey, but the real images have colours: distances would mislead")
    return frechet_distance(statistics(features.pool), reference.statistics)


def _distances(
    features: Features, reference: Reference, extractor: str, neighbours: int, distance: str
) -> dict[str, Any]:
    """As `compare_with_reference`, without the score."""
    metrics: dict[str, Any] = {distance: distance_to(reference, features)}
    if reference.manifold is not None:
        metrics["precision"], metrics["recall"] = precision_recall(features.pool, reference.manifold, neighbours)
        metrics["kid"], metrics["kid_std"] = kernel_distance(features.pool, reference.manifold)
    named = {metric_name(measure, extractor): value for measure, value in metrics.items()}
    if reference.manifold is not None:
        named["kid_subset"] = min(KID_SUBSET, len(features.pool), len(reference.manifold))
        named["manifold_images"] = len(reference.manifold)
    return {**named, "images": len(features.pool)}
