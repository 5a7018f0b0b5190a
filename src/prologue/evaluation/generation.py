"""How close generated images come to real ones: the metrics of a set of samples, and those of the pipeline's runs."""

from pathlib import Path
from typing import Any

from prologue.core.conventions import SAMPLING_RUNS
from prologue.core.errors import PrologueError
from prologue.core.files import sha256
from prologue.core.params import Params
from prologue.core.runtime import start_accelerator
from prologue.evaluation.features import Features, extract
from prologue.evaluation.image_sets import NpzImages
from prologue.evaluation.reference import Reference, load_reference
from prologue.frozen.extractor import Extractor
from prologue.measures.fidelity import (
    KID_SUBSET,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
    statistics,
)
from prologue.measures.registry import metric_name


def evaluate_generation(params: Params, samples_folder: Path, reference_folder: Path) -> dict[str, Any]:
    """Compare samples_folder/{cfg,no_cfg}.npz with the reference.

    Returns:
        The metrics of `compare_with_reference` for each run, real_is, the score of the real images, and the protocol.

    Raises:
        PrologueError: samples or reference are missing, unusable, or do not belong together.
    """
    accelerator = start_accelerator()
    name = params.evaluation.extractor
    reference = load_reference(reference_folder, name)
    size = reference.protocol["image_size"]
    samples = {run: NpzImages(samples_folder / f"{run}.npz") for run in SAMPLING_RUNS}
    for run, images in samples.items():
        if images.shape[1:3] != (size, size):
            raise PrologueError(
                f"{samples_folder / run}.npz holds {images.shape[2]} px images, but the reference in "
                f"{reference_folder} is of {size} px; run `dvc repro`"
            )
    extractor = Extractor(name, accelerator.device)
    metrics: dict[str, Any] = {}
    for run, images in samples.items():
        features = extract(extractor, images, params.evaluation.batch, accelerator)
        metrics[run] = compare_with_reference(features, reference, name, params.evaluation.neighbours, "gfd")
        metrics[run]["samples_sha256"] = sha256(samples_folder / f"{run}.npz")
    known = {"is", *extractor.protocol}
    return {
        **metrics,
        metric_name("real_is", name): reference.protocol["is"],
        "neighbours": params.evaluation.neighbours,
        **extractor.protocol,
        **{f"reference_{key}": value for key, value in reference.protocol.items() if key not in known},
    }


def compare_with_reference(
    features: Features, reference: Reference, extractor: str, neighbours: int, distance: str
) -> dict[str, Any]:
    """Metrics of samples (ADM's protocol, Dhariwal and Nichol 2021): each name says which extractor computed it.

    Returns:
        The Frechet distance, called `distance`; the inception score (10 splits) and its deviation; precision, recall
        and KID with its deviation, where the reference has features and not statistics alone; numbers of images.

    Raises:
        PrologueError: unusable samples (too few, equal, grey where the real ones have colours ...), or a reference
            that is no better.
    """
    if reference.protocol["coloured"] and not features.coloured:
        raise PrologueError("the samples are grey, but the real images have colours: distances would mislead")
    score, deviation = inception_score(features.logits)
    metrics: dict[str, Any] = {
        distance: frechet_distance(statistics(features.pool), reference.statistics),
        "is": score,
        "is_std": deviation,
    }
    if reference.manifold is not None:
        metrics["precision"], metrics["recall"] = precision_recall(features.pool, reference.manifold, neighbours)
        metrics["kid"], metrics["kid_std"] = kernel_distance(features.pool, reference.manifold)
    named = {metric_name(measure, extractor): value for measure, value in metrics.items()}
    if reference.manifold is not None:
        named["kid_subset"] = min(KID_SUBSET, len(features.pool), len(reference.manifold))
        named["manifold_images"] = len(reference.manifold)
    return {**named, "images": len(features.pool)}
