"""Small params and shards that several tests share."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prologue.data.shards import write_shards
from prologue.params import Params
from prologue.variants import apply_overrides

ROOT = Path(__file__).parents[1]

TINY = {
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


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("PROLOGUE_WORKERS", "0")  # starting processes takes longer than what they do in tests


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Return as soon as a condition holds; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.02)


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


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 40 training and 10 validation images."""
    folder = tmp_path_factory.mktemp("data")
    write_image_folder(folder / "photos", per_class=25)
    data = tiny_params().data.model_copy(update={"source": folder / "photos", "val_fraction": 0.2})
    write_shards(data, seed=0, output=folder / "shards")
    return folder / "shards"


@pytest.fixture(scope="session")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer, tokens and an AR model at toy size."""
    from training_run import run_stages  # which imports this module

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_stages(tiny_params(), shards, ["tokenizer", "tokens", "ar"])
    return folder
