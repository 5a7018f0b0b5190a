"""The project at toy size: params and photos that several tests share."""

from pathlib import Path

import numpy as np
from PIL import Image

from prologue.core.params import Params
from prologue.core.variants import apply_overrides

ROOT = Path(__file__).parents[1]

TINY: dict[str, object] = {
    "precision": "fp32",  # not what is faster on the machine at hand: numbers are compared
    "sampling.precision": "fp32",
    "data.image_size": 16,
    "data.images_per_shard": 16,
    "tokenizer.codebook": 32,
    "tokenizer.encoder.layers": 1,
    "tokenizer.encoder.dim": 64,
    "tokenizer.decoder.layers": 1,
    "tokenizer.decoder.dim": 64,
    "prologue.tokens": 3,
    "prologue.codebook": 8,
    "prologue.compact_ar.layers": 1,
    "prologue.compact_ar.dim": 64,
    "prologue.post.layers": 1,
    "prologue.post.dim": 64,
    "prologue.post.steps": 6,
    "stage1.steps": 6,
    "stage1.batch": 4,
    "stage1.warmup": 2,
    "stage1.flat": 2,
    "stage1.perceptual.lite0": 0,
    "stage1.discriminator.layers": 1,
    "stage1.discriminator.width": 8,
    "stage1.r1_every": 2,
    "stage1.log_every": 1,
    "stage1.validate_every": 4,
    "stage1.checkpoint_every": 2,
    "tokens.batch": 16,
    "ar.layers": 1,
    "ar.dim": 64,
    "ar.steps": 6,
    "ar.batch": 4,
    "ar.warmup": 2,
    "ar.log_every": 1,
    "ar.validate_every": 4,
    "ar.checkpoint_every": 2,
    "sampling.images": 12,
    "sampling.rows": 2,
    "sweep.values": [1.0, 2.5],
    "sweep.images": 12,
}


def tiny_params(**overrides: object) -> Params:
    """The default params at toy size; keyword a__b overrides a.b."""
    own = {key.replace("__", "."): value for key, value in overrides.items()}
    return apply_overrides(TINY | own, ROOT / "params.yaml")


def write_image_folder(folder: Path, per_class: int, classes: tuple[str, ...] = ("dawn", "dusk")) -> None:
    """JPEGs of many sizes, bright on the left and on the right by turns of their classes."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            height, width = rng.integers(20, 60, 2)
            ramp = np.linspace(0, 255, width) if label % 2 else np.linspace(255, 0, width)
            pixels = np.broadcast_to(ramp[None, :, None], (height, width, 3)) * rng.uniform(0.5, 1, 3)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"photo {number}.jpg")


def as_keywords(overrides: dict[str, object]) -> dict[str, object]:
    """Overrides by dotted key as `tiny_params` takes them."""
    return {key.replace(".", "__"): value for key, value in overrides.items()}
