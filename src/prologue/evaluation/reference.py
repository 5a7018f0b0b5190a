"""What samples are compared with: statistics of all held-out images, and features of up to 10,000 of them.

Sampling is tuned against another one, of training images, so that the held-out ones stay unseen by what they measure.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor

from prologue.core.errors import PrologueError
from prologue.core.files import read_json, replacing, sha256, write_json
from prologue.core.params import Params
from prologue.core.runtime import start_accelerator
from prologue.data.images import MANIFEST, ImageShards
from prologue.data.order import evenly_spaced
from prologue.evaluation.features import extract
from prologue.evaluation.image_sets import ImageSet, ShardImages
from prologue.frozen.extractor import Extractor
from prologue.measures.fidelity import SPLITS, Statistics, inception_score, statistics

FEATURES, PROTOCOL = "reference.safetensors", "protocol.json"
TRAIN = "train"  # the folder in that of a reference that is of training images
MANIFOLD = 10_000  # images of precision, recall and KID, as in ADM's evaluation


@dataclass(frozen=True)
class Reference:
    """Statistics of real images, features of some of them (M, D), and how they were made.

    `manifold` is None where only statistics are known. `protocol`: extractor, extractor_input, images, coloured, and
    where they are from.
    """

    statistics: Statistics
    manifold: Tensor | None
    protocol: dict[str, Any]


def compute_reference(params: Params, shards: Path, output: Path) -> dict[str, Any]:
    """Write the folder `output`: the reference of the centre-cropped validation images, and in train/ the other one.

    Returns:
        The protocol and the throughput.

    Raises:
        PrologueError: the extractor's weights are missing, or there are too few images for the metrics.
    """
    accelerator = start_accelerator()
    images = {split: ShardImages(ImageShards(shards, split), params.data.image_size) for split in ("val", "train")}
    least = max(SPLITS, params.evaluation.neighbours + 1)
    for split, own in images.items():
        if len(own) < least:  # said here, long before the stage that would fail
            raise PrologueError(
                f"{len(own)} {split} images are too few for the metrics, which need at least {least}: "
                "add images, or raise data.val_fraction, data.val_limit or data.train_limit"
            )
    images["train"] = images["train"].spread(
        max(least, min(MANIFOLD, len(images["val"]) // 2))
    )  # to tune against alone
    identity = {
        "crop": "center",
        "image_size": params.data.image_size,
        "shards_sha256": sha256(shards / MANIFEST),
    }
    started = time.perf_counter()
    extractor = Extractor(params.evaluation.extractor, accelerator.device)
    references = {
        split: measure_reference(extractor, own, params.evaluation.batch, {"split": split, **identity}, accelerator)
        for split, own in images.items()
    }
    rate = sum(map(len, images.values())) / (time.perf_counter() - started)
    if accelerator.is_main_process:
        with replacing(output) as temporary:
            save_reference(temporary, references["val"])
            save_reference(temporary / TRAIN, references["train"])
    accelerator.wait_for_everyone()
    return {
        **references["val"].protocol,
        "train_images": len(images["train"]),
        "images_per_second": round(rate, 1),
    }


def measure_reference(
    extractor: Extractor, images: ImageSet, batch: int, identity: dict[str, Any], accelerator: Accelerator
) -> Reference:
    """The reference of at least 10 images; `identity` says in its protocol what they are. Raises as the metrics do."""
    features = extract(extractor, images, batch, accelerator)
    protocol = {
        **extractor.protocol,
        "images": len(features.pool),
        "coloured": features.coloured,
        "is": inception_score(features.logits)[0],
        **identity,
    }
    chosen = evenly_spaced(len(features.pool), MANIFOLD)
    return Reference(statistics(features.pool), features.pool[chosen], protocol)


def load_reference(folder: Path, extractor: str) -> Reference:
    """Read what `save_reference` wrote. Raises PrologueError where it is missing or of another extractor."""
    if not (folder / PROTOCOL).is_file():
        raise PrologueError(f"{folder / PROTOCOL} not found: run the stage reference first")
    protocol = read_json(folder / PROTOCOL)
    if protocol["extractor"] != extractor:
        raise PrologueError(
            f"{folder} holds features of {protocol['extractor']}, but evaluation.extractor is {extractor}; "
            "run the stage reference again"
        )
    tensors = load_file(folder / FEATURES)
    moments = Statistics(tensors["mu"].numpy(), tensors["sigma"].numpy())
    return Reference(moments, tensors["manifold"], protocol)


def save_reference(folder: Path, reference: Reference) -> None:
    """Write a reference with its manifold to a folder."""
    assert reference.manifold is not None
    tensors = {
        "manifold": reference.manifold,
        "mu": torch.from_numpy(reference.statistics.mu),
        "sigma": torch.from_numpy(reference.statistics.sigma),
    }
    with replacing(folder) as temporary:
        temporary.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / FEATURES)
        write_json(temporary / PROTOCOL, reference.protocol)
