"""How close samples come to real images, with and without guidance."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from prologue.errors import PrologueError
from prologue.evaluation.features import Extractor, Features, extract, share
from prologue.evaluation.fidelity import frechet_distance, inception_score, precision_recall, statistics
from prologue.evaluation.reference import Reference, load_reference
from prologue.files import sha256
from prologue.params import Params
from prologue.runtime import start_accelerator

RUNS = ("cfg", "no_cfg")


def evaluate_generation(params: Params, samples_folder: Path, reference_folder: Path) -> dict[str, Any]:
    """Compare samples_folder/{cfg,no_cfg}.npz with the reference.

    Returns:
        For each run gfd_EXTRACTOR, is_EXTRACTOR (mean of 10 splits, and its deviation is_EXTRACTOR_std),
        precision_EXTRACTOR and recall_EXTRACTOR; real_is_EXTRACTOR, the score of the real images; and the protocol.

    Raises:
        PrologueError: samples or reference are missing, unusable, or do not belong together.
    """
    accelerator = start_accelerator()
    name = params.evaluation.extractor
    reference = load_reference(reference_folder, name)
    samples = {run: load_samples(samples_folder / f"{run}.npz") for run in RUNS}
    for run, images in samples.items():
        if images.shape[2] != reference.protocol["image_size"]:
            raise PrologueError(
                f"{samples_folder / run}.npz holds {images.shape[2]} px images, but the reference in "
                f"{reference_folder} is of {reference.protocol['image_size']} px; run `dvc repro`"
            )
    extractor = Extractor(name, accelerator.device)
    metrics: dict[str, Any] = {}
    for run, images in samples.items():
        features = _features(extractor, images, params.evaluation.batch, accelerator)
        metrics[run] = _compare(features, reference, name, params.evaluation.neighbours)
        metrics[run]["images"] = len(images)
        metrics[run]["samples_sha256"] = sha256(samples_folder / f"{run}.npz")
    protocol = {f"reference_{key}": value for key, value in reference.protocol.items() if key not in extractor.protocol}
    return {
        **metrics,
        f"real_is_{name}": inception_score(reference.features.logits)[0],
        "neighbours": params.evaluation.neighbours,
        **extractor.protocol,
        **protocol,
    }


def load_samples(path: Path) -> Tensor:
    """Images uint8 (N, 3, H, W) of an npz in ADM's layout. Raises PrologueError for a file of another kind."""
    if not path.is_file():
        raise PrologueError(f"{path} not found: run the stage samples first")
    try:
        with np.load(path) as content:
            images = content["arr_0"]
    except (ValueError, KeyError, OSError) as error:
        raise PrologueError(f"{path} is no npz of samples ({error}); run the stage samples again") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
        raise PrologueError(
            f"{path}: arr_0 must be square images uint8 (N, H, H, 3), got {images.dtype} {images.shape}"
        )
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def _features(extractor: Extractor, images: Tensor, batch: int, accelerator: Accelerator) -> Features:
    positions = torch.from_numpy(share(len(images), accelerator)).split(batch)
    return extract(extractor, (images[part] for part in positions), len(positions), len(images), accelerator)


def _compare(features: Features, reference: Reference, name: str, neighbours: int) -> dict[str, Any]:
    score, deviation = inception_score(features.logits)
    precision, recall = precision_recall(features.pool, reference.features.pool, neighbours)
    return {
        f"gfd_{name}": frechet_distance(statistics(features.pool), reference.statistics),
        f"is_{name}": score,
        f"is_{name}_std": deviation,
        f"precision_{name}": precision,
        f"recall_{name}": recall,
    }
