"""Training crops per second against torchvision's ImageFolder with the same transform, and exact against fast crops.

    python benchmarks/loading.py       # 256 px crops of 1,000 photograph-like JPEGs, one process

Writes reports/benchmarks/loading.json.
"""

import itertools
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from photos import write_photos
from sharding import params_of
from sitting import Sitting
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from prologue.core.params import AugmentParams
from prologue.data.images import ImageShards
from prologue.data.loader import training_batches
from prologue.data.shards import write_shards
from prologue.data.transforms import random_crop

PHOTOS, SIZE, BATCH, STEPS, ROUNDS, COMPARED = 1000, 256, 50, 10, 3, 200
AUGMENT = {name: AugmentParams(max_scale=1.25, flip=True, decoder=name) for name in ("exact", "fast")}


def image_folder(folder: Path) -> Iterator[object]:
    """Batches of ImageFolder: shorter side drawn from 256 to 320 px, random 256 px crop, mirrored or not."""
    transform = v2.Compose(
        [
            v2.Lambda(
                lambda image: v2.functional.resize(
                    image, int(torch.randint(SIZE, 5 * SIZE // 4 + 1, ())), v2.InterpolationMode.BICUBIC
                )
            ),
            v2.RandomCrop(SIZE),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
        ]
    )
    return iter(DataLoader(ImageFolder(str(folder), transform), BATCH, shuffle=True))


def own(images: ImageShards, decoder: str) -> Iterator[object]:
    crop = partial(random_crop, size=SIZE, augment=AUGMENT[decoder])
    return training_batches(images, crop, 0, BATCH, 0, STEPS, 0, 1)


def difference(images: ImageShards) -> dict[str, float]:
    """How far fast crops are from exact ones, in grey levels of 255."""
    gaps = []
    for index in range(COMPARED):
        one, two = (
            random_crop(images.read(index), SIZE, augment, np.random.default_rng(index)).float()
            for augment in AUGMENT.values()
        )
        gaps.append((one - two).abs())
    every = torch.stack(gaps)
    return {"mean": round(every.mean().item(), 3), "largest": every.max().item()}


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, Sitting() as sitting:
        folder = Path(name)
        write_photos(folder / "photos", PHOTOS)
        write_shards(params_of(folder / "photos"), 0, folder / "shards")
        images = ImageShards(folder / "shards", "train")
        sides = {
            "image_folder": lambda: image_folder(folder / "photos"),
            "exact": lambda: own(images, "exact"),
            "fast": lambda: own(images, "fast"),
        }
        best = dict.fromkeys(sides, 0.0)
        for _ in range(ROUNDS):
            for side, start in sides.items():
                began = time.perf_counter()
                count = sum(1 for _ in itertools.islice(start(), STEPS))
                best[side] = max(best[side], count * BATCH / (time.perf_counter() - began))
        result = {
            "images_per_second": {side: round(rate) for side, rate in best.items()},
            "times_faster": {side: round(best[side] / best["image_folder"], 2) for side in ("exact", "fast")},
            "fast_from_exact_grey_levels": difference(images),
        }
    sitting.write("loading", result)


if __name__ == "__main__":
    main()
