"""Fixtures that several test modules share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from browser import CHROMIUM, Browser
from preloaded import Preloaded
from tiny import tiny_params, write_image_folder
from training_run import run_stages

from prologue.core import precision
from prologue.data.shards import write_shards


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads are many times slower than one while anything else uses the cores."""
    torch.set_num_threads(1)
    monkeypatch.setenv("PROLOGUE_THREADS", "1")
    monkeypatch.setenv("PROLOGUE_WORKERS", "0")  # starting processes takes longer than what they do in tests


@pytest.fixture(scope="session", autouse=True)
def _own_precision_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is timed beside other tests is not what the user's runs go by."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "user_cache_path", lambda _: folder)
        yield


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preloaded]:
    """Where processes start that need the project's modules, which it has loaded already."""
    with Preloaded(tmp_path_factory.mktemp("preloaded")) as server:
        yield server


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
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_stages(tiny_params(), shards, ["tokenizer", "tokens", "ar"])
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium."""
    if not CHROMIUM:
        pytest.skip("needs a browser: apt-get install chromium")
    with Browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started
