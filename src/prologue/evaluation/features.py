"""Features of images by a frozen network, on every process of a launch.

Each process works on one block of positions; `gather` puts the rows together again, exactly one per image.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from prologue.errors import PrologueError
from prologue.launch import progress
from prologue.networks import efficientnet_lite, inception, lite_input

LITE_SIZE = 128  # px; part of the protocol: distances at another size are not comparable


class Features(NamedTuple):
    """Pooled features float32 (N, D) and class logits float32 (N, C) of N images."""

    pool: Tensor
    logits: Tensor


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
    def __call__(self, images: Tensor) -> Features:
        """Features of images uint8 (N, 3, H, W). Raises PrologueError for any other type or shape."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise PrologueError(f"features need images uint8 (N, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        images = images.to(self.device)
        if self.name == "inception":
            return Features(*self.network(images))
        resized = F.interpolate(images.float(), size=(LITE_SIZE, LITE_SIZE), mode="bicubic", antialias=True)
        maps = self.network.forward_features(lite_input(resized.clamp(0, 255)))  # (N, 1280, 4, 4)
        pool = self.network.global_pool(maps)
        return Features(pool, self.network.classifier(pool))

    @property
    def protocol(self) -> dict[str, str]:
        """What a reader must know to compare numbers of this extractor."""
        seen = f"{LITE_SIZE} px, bicubic, antialiased" if self.name == "lite2" else "299 px, bilinear as TensorFlow 1"
        return {"extractor": self.name, "extractor_input": seen}


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


def extract(
    extractor: Extractor, batches: Iterable[Tensor], steps: int, count: int, accelerator: Accelerator
) -> Features:
    """Features of `count` images, on the CPU of every process.

    Args:
        batches: this process's share of the images, uint8 (b, 3, H, W), in `steps` batches.
    """
    parts = [extractor(images) for images in progress(batches, f"features of {extractor.name}", "batch", steps)]
    pool, logits = (torch.cat(part) for part in zip(*parts, strict=True))
    return Features(gather(pool, count, accelerator), gather(logits, count, accelerator))
