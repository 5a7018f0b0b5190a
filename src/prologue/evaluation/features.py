"""Features of images by a frozen network, on every process of a launch.

Each process works on one block of positions; `gather` puts the rows together again, exactly one per image.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from prologue.errors import PrologueError
from prologue.evaluation.image_sets import ImageSet
from prologue.launch import progress
from prologue.networks import efficientnet_lite, inception, lite_input

LITE_SIZE = 128  # px; part of the protocol: distances at another size are not comparable


class Features(NamedTuple):
    """Pooled features float32 (N, D) and class logits float32 (N, C) of N images; whether any of them has a colour."""

    pool: Tensor
    logits: Tensor
    coloured: bool


class Extractor:
    """A frozen network that turns images into features; `name` is part of every metric's name.

    lite2: EfficientNet-Lite2 (1280 features, 1000 ImageNet logits); its images are resized to 128 x 128 px, bicubic,
    antialiased, clipped to 0..255. inception: Inception 2015-12-05 as in TensorFlow's FID (2048 features, 1008 logits
    without bias), which resizes to 299 x 299 px.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        """Raises PrologueError where the network's weights are missing."""
        self.name = name
        self.device = torch.device(device)
        self.network = (efficientnet_lite("lite2") if name == "lite2" else inception()).to(self.device)

    @torch.no_grad()
    def __call__(self, images: Sequence[Tensor] | Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features (N, D) and logits (N, C) of uint8 images (3, H, W), of one size or of many.

        Raises PrologueError for any other type or shape.
        """
        for image in images:
            if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
                raise PrologueError(f"features need images uint8 (3, H, W), got {image.dtype} {tuple(image.shape)}")
        groups = [torch.stack(list(same)).to(self.device) for _, same in groupby(images, lambda image: image.shape)]
        if self.name == "inception":
            pools, logits = zip(*(self.network(group) for group in groups), strict=True)
            return torch.cat(pools), torch.cat(logits)
        size = (LITE_SIZE, LITE_SIZE)
        resized = [F.interpolate(group.float(), size=size, mode="bicubic", antialias=True) for group in groups]
        maps = self.network.forward_features(lite_input(torch.cat(resized).clamp(0, 255)))  # (N, 1280, 4, 4)
        pool = self.network.global_pool(maps)
        return pool, self.network.classifier(pool)

    @property
    def protocol(self) -> dict[str, str]:
        """What a reader must know to compare numbers of this extractor."""
        seen = f"{LITE_SIZE} px, bicubic, antialiased" if self.name == "lite2" else "299 px, bilinear as TensorFlow 1"
        return {"extractor": self.name, "extractor_input": seen}


def metric_name(measure: str, extractor: str) -> str:
    """A metric's name, which says what computed it: `fid` is Inception's alone, all else carries its extractor's name.

    measure: fd, rfd (of reconstructions), gfd (of generated images), is, kid, precision, recall ...
    """
    if extractor == "inception":
        return measure.replace("fd", "fid")
    return f"{measure}_{extractor}"


def share(count: int, accelerator: Accelerator) -> NDArray[np.int64]:
    """This process's positions of `count`: a block as long as every other's, the last position repeated to fill it."""
    block = math.ceil(count / accelerator.num_processes)
    first = accelerator.process_index * block
    return np.minimum(np.arange(first, first + block), count - 1)


def gather(rows: Tensor, count: int, accelerator: Accelerator) -> Tensor:
    """The rows of all positions in order, on the CPU of every process; `rows` are those of this process's `share`."""
    everything = accelerator.gather(rows.to(accelerator.device).contiguous())
    assert isinstance(everything, Tensor)
    return everything[:count].cpu()


def extract(extractor: Extractor, images: ImageSet, batch: int, accelerator: Accelerator) -> Features:
    """Features of all images, on the CPU of every process.

    Raises:
        PrologueError: no pixel of any image is brighter than 1, as when images in 0..1 were rounded to integers.
    """
    positions = share(len(images), accelerator)
    batches = images.batches(positions, batch)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in progress(batches, f"features of {extractor.name}", "batch", math.ceil(len(positions) / batch)):
        looks = torch.tensor([[image.max(), (image != image[:1]).any()] for image in part], dtype=torch.int64)
        parts.append((*extractor(part), looks))
    pool, logits, looks = (gather(torch.cat(rows), len(images), accelerator) for rows in zip(*parts, strict=True))
    if looks[:, 0].max() <= 1:
        raise PrologueError(f"all {len(images)} images are black: no value is above 1; images are uint8 from 0 to 255")
    return Features(pool, logits, bool(looks[:, 1].any()))
