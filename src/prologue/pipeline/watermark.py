"""What a watermark is worth: how often it is found where it is not, and after damage where it is; what it costs."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor

from prologue.core.errors import PrologueError
from prologue.core.launch import progress
from prologue.core.params_file import load_params
from prologue.core.runtime import start_accelerator
from prologue.data.images import ImageShards
from prologue.evaluation.features import extract
from prologue.evaluation.image_sets import ArrayImages, ShardImages
from prologue.evaluation.reference import Reference, load_reference
from prologue.frozen.extractor import Extractor
from prologue.generator.generator import Generator
from prologue.measures.fidelity import frechet_distance, statistics
from prologue.measures.intervals import frechet_draws, interval
from prologue.measures.registry import metric_name
from prologue.sampling.generation import Seed
from prologue.sampling.images import Pixels
from prologue.sampling.samples import labels_like
from prologue.sampling.watermark import LEVEL, Watermark
from prologue.tokens.cache import TokenCache

LEVELS = (0.001, 0.01, 0.05, 0.1, 0.5)
KEYS = 20  # that the unmarked images are read with
BATCH = 256

Pixel = NDArray[np.uint8]
Damage = Callable[[Pixel, int], Pixel]  # an image uint8 (H, W, 3) and its number


def measure_watermark(
    generator: Generator, strengths: list[float], images: int, real: int, seed: int
) -> dict[str, Any]:
    """Measure the watermark of a project's model: `images` drawn at each strength, and as many without it.

    Images are drawn with guidance, and with the labels and seeds of the stage samples. Real images are spread over both
    splits. The keys are made of numbers: nothing is protected by them.

    Returns:
        false_positives of real and of unmarked images, by level: the share of p-values up to it, in the mean over
        keys, the least and the most of any key; detection by strength: the shares found up to LEVEL with their 95 %
        intervals, by damage; cost by strength: Frechet distance to real images and what the mark adds, with intervals;
        and counts.

    Raises:
        PrologueError: the model is of no project, whose real images and tokens are needed.
    """
    project = generator.project
    if project is None:
        raise PrologueError(f"{generator.name} has no real images beside it: give the folder of a project that has run")
    params = load_params(project / "params.yaml")
    reference = load_reference(project / "data" / "reference", params.evaluation.extractor)
    extractor = Extractor(params.evaluation.extractor, start_accelerator().device)
    known = TokenCache(project / "data" / "tokens", "val").labels
    labels = labels_like(known, list(generator.classes), params.sampling.classes, images)
    keys = [f"watermark that is measured, {number}".encode() for number in range(KEYS)]
    readers = [Watermark(key, generator.tokenizer) for key in keys]
    unmarked = _draw(generator, labels, seed, None)
    plain = _draws(unmarked, extractor, reference, params.evaluation.batch)
    found: dict[str, Any] = {
        "model": generator.name,
        "weights_sha256": generator.weights_sha256,
        "images": images,
        "seed": seed,
        "level": LEVEL,
        "keys": KEYS,
        "false_positives": {
            "real": _false_positives(_real_ids(generator, project, real), readers),
            "unmarked": _false_positives(_encode(generator, unmarked), readers),
        },
        "unmarked": plain[0],
        "detection": {},
        "cost": {},
        **extractor.protocol,
    }
    for strength in progress(strengths, "watermark", "strength"):
        marked = _draw(generator, labels, seed, Watermark(keys[0], generator.tokenizer, strength))
        found["detection"][f"{strength:g}"] = {
            name: _share_found(readers[0], _encode(generator, _damaged(marked, damage)))
            for name, damage in DAMAGES.items()
        }
        found["cost"][f"{strength:g}"] = _cost(_draws(marked, extractor, reference, params.evaluation.batch), plain)
    return found


def _draw(generator: Generator, labels: NDArray[np.int64], seed: int, watermark: Watermark | None) -> Pixels:
    """Images of the labels with the seeds (seed, i), drawn with guidance."""
    sampler = generator.sampler(generator.cfg, watermark)
    seeds: list[Seed] = [(seed, image) for image in range(len(labels))]
    return generator.pixels(sampler.sample(torch.from_numpy(labels).to(sampler.device), seeds))


def _encode(generator: Generator, images: Pixels) -> Tensor:
    return generator.encode(torch.from_numpy(images).permute(0, 3, 1, 2)).visual


def _real_ids(generator: Generator, project: Path, count: int) -> Tensor:
    """Visual ids of so many real images, or all, of both splits."""
    size = generator.tokenizer.config.image_size
    splits = [ShardImages(ImageShards(project / "data" / "shards", split), size) for split in ("train", "val")]
    total = sum(map(len, splits))
    parts = []
    for split in splits:
        chosen = split.spread(min(len(split), round(count * len(split) / total)))
        parts += [generator.encode(batch).visual for batch in chosen.batches(np.arange(len(chosen)), BATCH)]
    return torch.cat(parts)


def _false_positives(visual: Tensor, readers: list[Watermark]) -> dict[str, Any]:
    """Shares of images without a mark whose p-value is at most each level, over keys."""
    p_values = np.stack([reader.read(visual).p_value for reader in readers])  # (keys, images)
    shares = {level: (p_values <= level).mean(axis=1) for level in LEVELS}
    return {
        "images": len(visual),
        "counted_tokens": float(readers[0].read(visual).counted.mean()),
        "levels": {
            f"{level:g}": {"mean": float(own.mean()), "least": float(own.min()), "most": float(own.max())}
            for level, own in shares.items()
        },
    }


def _share_found(reader: Watermark, visual: Tensor) -> dict[str, float]:
    """The share of marked images that are recognised, with its 95 % interval (Wilson)."""
    low = int((reader.read(visual).p_value <= LEVEL).sum())
    within = binomtest(low, len(visual)).proportion_ci(method="wilson")
    return {"found": low / len(visual), "low": float(within.low), "high": float(within.high)}


def _draws(
    images: Pixels, extractor: Extractor, reference: Reference, batch: int
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """The Frechet distance of images to real ones with its interval, and that of resamples of them."""
    pool = extract(extractor, ArrayImages(images), batch, start_accelerator()).pool
    name = metric_name("gfd", extractor.name)
    distance = frechet_distance(statistics(pool), reference.statistics)
    drawn = frechet_draws(pool, [reference.statistics])[:, 0]
    return {name: distance, "interval": {name: interval(distance, float(drawn.std(ddof=1)))}}, drawn


def _cost(
    marked: tuple[dict[str, Any], NDArray[np.float64]], plain: tuple[dict[str, Any], NDArray[np.float64]]
) -> dict[str, Any]:
    """What the mark adds to the distance; resampled images have the same seeds on both sides."""
    name = next(iter(plain[0]))
    added = marked[0][name] - plain[0][name]
    return {**marked[0], "added": added, "added_interval": interval(added, float((marked[1] - plain[1]).std(ddof=1)))}


def _damaged(images: Pixels, damage: Damage) -> Pixels:
    return np.stack([damage(image, number) for number, image in enumerate(images)])


def _jpeg(quality: int) -> Damage:
    def compress(image: Pixel, _: int) -> Pixel:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.array(Image.open(file))

    return compress


def _resized(scale: float) -> Damage:
    """Made smaller or larger, and back."""

    def resize(image: Pixel, _: int) -> Pixel:
        height, width = image.shape[:2]
        other = Image.fromarray(image).resize((round(scale * width), round(scale * height)), Image.Resampling.LANCZOS)
        return np.array(other.resize((width, height), Image.Resampling.LANCZOS))

    return resize


def _cropped(share: float) -> Damage:
    """So much cut off at every side, and back to the size."""

    def crop(image: Pixel, _: int) -> Pixel:
        height, width = image.shape[:2]
        rows, columns = max(1, round(share * height)), max(1, round(share * width))
        inside = Image.fromarray(image[rows:-rows, columns:-columns])
        return np.array(inside.resize((width, height), Image.Resampling.LANCZOS))

    return crop


def _noisy(deviation: float) -> Damage:
    """Gaussian noise, of a seed that is the image's number."""

    def add(image: Pixel, number: int) -> Pixel:
        noise = np.random.default_rng(number).normal(0, deviation, image.shape)
        return (image + noise).round().clip(0, 255).astype(np.uint8)

    return add


DAMAGES: dict[str, Damage] = {
    "none": lambda image, _: image,
    "JPEG, quality 90": _jpeg(90),
    "JPEG, quality 75": _jpeg(75),
    "resized to 200 % and back": _resized(2),
    "resized to 75 % and back": _resized(0.75),
    "3 % cropped at every side, resized": _cropped(0.03),
    "noise, deviation 4 of 255": _noisy(4),
    "noise, deviation 8 of 255": _noisy(8),
}
