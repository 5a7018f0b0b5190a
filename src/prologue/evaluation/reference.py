"""Features and statistics of the real validation images, once per dataset and extractor."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from prologue.data.images import MANIFEST, ImageShards
from prologue.data.loader import view_batches
from prologue.errors import PrologueError
from prologue.evaluation.features import Extractor, Features, extract, share
from prologue.evaluation.fidelity import SPLITS, Statistics, statistics
from prologue.files import read_json, replacing, sha256, write_json
from prologue.params import Params
from prologue.runtime import start_accelerator

FEATURES, PROTOCOL = "reference.safetensors", "protocol.json"


@dataclass(frozen=True)
class Reference:
    """Features of the real images on the CPU, their statistics, and how they were made.

    `protocol`: extractor, extractor_input, images, crop, image_size, shards_sha256 (of the shards' manifest).
    """

    features: Features
    statistics: Statistics
    protocol: dict[str, Any]


def compute_reference(params: Params, shards: Path, output: Path) -> dict[str, Any]:
    """Write the folder `output`: features and statistics of the centre-cropped validation images, and the protocol.

    Returns:
        The protocol and the throughput.

    Raises:
        PrologueError: the extractor's weights are missing, or there are too few images for the metrics.
    """
    accelerator = start_accelerator()
    images = ImageShards(shards, "val")
    least = max(SPLITS, params.evaluation.neighbours + 1)
    if len(images) < least:  # said here, long before the stage that would fail
        raise PrologueError(
            f"{len(images)} validation images are too few for the metrics, which need at least {least}: "
            "add images, or raise data.val_fraction or data.val_limit"
        )
    extractor = Extractor(params.evaluation.extractor, accelerator.device)
    size, batch = params.data.image_size, params.evaluation.batch
    started = time.perf_counter()
    positions = share(len(images), accelerator)
    batches = (views[:, 0] for views, _ in view_batches(images, size, "center", positions, batch))
    features = extract(extractor, batches, math.ceil(len(positions) / batch), len(images), accelerator)
    rate = len(images) / (time.perf_counter() - started)
    protocol = {
        **extractor.protocol,
        "images": len(images),
        "split": "val",
        "crop": "center",
        "image_size": size,
        "shards_sha256": sha256(shards / MANIFEST),
    }
    if accelerator.is_main_process:
        _write(output, features, statistics(features.pool), protocol)
    accelerator.wait_for_everyone()
    return {**protocol, "images_per_second": round(rate, 1)}


def load_reference(folder: Path, extractor: str) -> Reference:
    """Read what `compute_reference` wrote. Raises PrologueError where it is missing or of another extractor."""
    if not (folder / PROTOCOL).is_file():
        raise PrologueError(f"{folder / PROTOCOL} not found: run the stage reference first")
    protocol = read_json(folder / PROTOCOL)
    if protocol["extractor"] != extractor:
        raise PrologueError(
            f"{folder} holds features of {protocol['extractor']}, but evaluation.extractor is {extractor}; "
            "run the stage reference again"
        )
    tensors = load_file(folder / FEATURES)
    features = Features(tensors["pool"], tensors["logits"])
    return Reference(features, Statistics(tensors["mu"].numpy(), tensors["sigma"].numpy()), protocol)


def _write(output: Path, features: Features, moments: Statistics, protocol: dict[str, Any]) -> None:
    tensors = {
        "pool": features.pool,
        "logits": features.logits,
        "mu": torch.from_numpy(moments.mu),
        "sigma": torch.from_numpy(moments.sigma),
    }
    with replacing(output) as folder:
        folder.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / FEATURES)
        write_json(folder / PROTOCOL, protocol)
