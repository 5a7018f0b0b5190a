"""Features of a set of images, computed by all processes of a launch."""

import math
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from prologue.core.errors import PrologueError
from prologue.core.launch import progress
from prologue.core.sharing import gather_blocks, own_block
from prologue.evaluation.image_sets import ImageSet
from prologue.frozen.extractor import Extractor


class Features(NamedTuple):
    """Pooled features float32 (N, D) and class logits float32 (N, C) of N images; whether any of them has a colour."""

    pool: Tensor
    logits: Tensor
    coloured: bool


def extract(extractor: Extractor, images: ImageSet, batch: int, accelerator: Accelerator) -> Features:
    """Features of all images that have pixels, on the CPU of every process.

    Raises:
        PrologueError: no pixel of any image is brighter than 1, as when images in 0..1 were rounded to integers.
    """
    positions = own_block(len(images), accelerator)
    batches = images.batches(positions, batch)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in progress(batches, f"features of {extractor.name}", "batch", math.ceil(len(positions) / batch)):
        looks = torch.tensor([_look(image) for image in part], dtype=torch.int64)
        parts.append((*extractor([image if image.numel() else image.new_zeros(3, 8, 8) for image in part]), looks))
    pool, logits, looks = (
        gather_blocks(torch.cat(rows), len(images), accelerator) for rows in zip(*parts, strict=True)
    )
    usable = looks[:, 0] >= 0
    if looks[:, 0].max() <= 1:
        raise PrologueError(f"all {len(images)} images are black: no value is above 1; images are uint8 from 0 to 255")
    return Features(pool[usable], logits[usable], bool(looks[:, 1].any()))


def _look(image: Tensor) -> tuple[int, bool]:
    """The largest value of an image, -1 of one without pixels, and whether it has a colour."""
    return (int(image.max()), bool((image != image[:1]).any())) if image.numel() else (-1, False)
