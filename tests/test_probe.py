"""The linear probe by MAE's protocol: its arithmetic, its crops, and what any training here must survive."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import encoded
from launches import TRAINING, Launch, assert_same_curves, words
from PIL import Image
from preloaded import Preloaded
from safetensors.torch import load_file
from scipy.stats import ks_2samp
from tiny import ROOT, tiny_params
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as F

from prologue.core.runtime import start_accelerator
from prologue.core.systems import tokenizer_size
from prologue.core.variants import apply_overrides, load_variants
from prologue.data.images import ImageShards
from prologue.data.loader import training_batches
from prologue.data.order import epoch_indices
from prologue.data.shards import write_shards
from prologue.data.transforms import random_resized_crop
from prologue.models.config import PrologueConfig, TokenizerConfig
from prologue.models.saved import load_tokenizer, save_model
from prologue.models.tokenizer import Tokenizer
from prologue.probe.mae import ProbeTask, describe_protocol
from prologue.probe.run import run_probe
from prologue.training.schedule import CosineSchedule

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200), "yellow": (200, 200, 40)}
MAE: dict[str, object] = {
    "probe__protocol": "mae",
    "probe__mae__steps": 60,
    "probe__mae__batch": 16,
    "probe__mae__lr": 6.4,
    "probe__mae__warmup": 10,
    "probe__mae__log_every": 1,
    "probe__mae__validate_every": 8,
    "probe__mae__checkpoint_every": 2,
    "evaluation__batch": 5,
}


@pytest.fixture(autouse=True)
def _own_work_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards of four colours, which crops and mirrors leave as they are, and an untrained tokenizer."""
    root = tmp_path_factory.mktemp("probe")
    rng = np.random.default_rng(0)
    for split, count in (("train", 15), ("val", 6)):
        for name, colour in COLOURS.items():
            folder = root / "source" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.array(colour) + rng.integers(-40, 41, (24, 32, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    params = tiny_params()
    write_shards(params.data.model_copy(update={"source": root / "source"}), 0, root / "shards")
    torch.manual_seed(0)
    prologue = PrologueConfig(tokens=params.prologue.tokens, codebook=8, tau=1.0, encoder=None)
    config = TokenizerConfig(image_size=16, tokenizer=tokenizer_size(params.tokenizer), prologue=prologue)
    save_model(root / "tokenizer", Tokenizer(config))
    return root


def test_steps_equal_a_plain_float64_computation(data: Path) -> None:
    """Batch norm, linear layer, softmax cross-entropy and LARS by their formulas, for each head."""
    task = ProbeTask(tiny_params(**MAE), data / "tokenizer", data / "shards", start_accelerator())
    tokenizer = load_tokenizer(data / "tokenizer")
    batches = [batch for _, batch in zip(range(13), task.batches(0), strict=False)]
    features: dict[str, list[Any]] = {"prologue": [], "visual": []}
    assert [len(images) for images, _ in batches[0]] == [5, 5, 5, 1]
    whole = [tuple(torch.cat(parts) for parts in zip(*pieces, strict=True)) for pieces in batches]
    for images, _ in whole:
        visual, prologue = (tokens.detach().double().numpy() for tokens in tokenizer.encoder_features(images))
        features["prologue"].append(prologue.mean(1))
        features["visual"].append(visual[:, :3].mean(1))  # as many as there are prologue tokens
    starts = {part: head.linear.weight.detach().double().numpy() for part, head in task.heads.items()}
    assert all(0.008 < start.std() < 0.012 for start in starts.values())

    losses = []
    for step, batch in enumerate(batches):
        losses.append(task.gradients(step, batch))
        task.update(step, {}, torch.zeros(()))
    for part, head in task.heads.items():
        w, b = starts[part].copy(), np.zeros(4)
        w_momentum, b_momentum, running_mean, running_var = 0, 0, 0, 1
        for step, (x, (_, labels)) in enumerate(zip(features[part], whole, strict=True)):
            mean, var = x.mean(0), x.var(0)
            running_mean = 0.9 * running_mean + 0.1 * mean
            running_var = 0.9 * running_var + 0.1 * var * 16 / 15
            z = (x - mean) / np.sqrt(var + 1e-6)
            p = np.exp(z @ w.T + b)
            p /= p.sum(1, keepdims=True)
            assert losses[step][f"{part}_loss"].item() == pytest.approx(
                -np.log(p[np.arange(16), labels]).mean(), rel=1e-4
            )
            g = (p - np.eye(4)[labels]) / 16
            w_gradient, b_gradient = g.T @ z, g.sum(0)
            trust = 0.001 * np.linalg.norm(w) / np.linalg.norm(w_gradient)
            w_momentum = 0.9 * w_momentum + trust * w_gradient
            b_momentum = 0.9 * b_momentum + b_gradient
            rate = 6.4 * step / 10 if step < 10 else 6.4 * 0.5 * (1 + np.cos(np.pi * (step - 10) / 50))
            w, b = w - rate * w_momentum, b - rate * b_momentum
        np.testing.assert_allclose(head.linear.weight.detach(), w, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(head.linear.bias.detach(), b, rtol=1e-3, atol=1e-4)
        x = features[part][0]
        expected = (x - running_mean) / np.sqrt(running_var + 1e-6) @ w.T + b
        logits = head.eval()(torch.from_numpy(x).float()).detach()
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


def test_learning_rates() -> None:
    schedule = CosineSchedule(steps=100, warmup=20, lr=2.0)
    rates = [schedule.rate(step) for step in (0, 5, 20, 40, 60, 80, 99)]
    assert rates == pytest.approx([0, 0.5, 2, 1 + np.sqrt(0.5), 1, 1 - np.sqrt(0.5), 0.00077], abs=1e-5)


def test_the_imagenet_variant_is_the_papers_protocol_and_others_say_that_they_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    params = apply_overrides(load_variants(["imagenet_b_b"]))
    schedule = CosineSchedule.of(params.probe.mae, images=1_281_167)
    assert (schedule.steps, schedule.warmup) == (7038, 782)  # 90 and 10 epochs of 78.2 steps
    assert schedule.rate(782) == 0.1 * 16384 / 256
    said = describe_protocol(params.probe.mae, params.precision)
    assert said.startswith("mae: MAE's linear protocol: random resized crops")
    assert "90epochs of batch 16384, lr up to 6.4 in 10epochs" in said
    other = params.probe.mae.model_copy(update={"steps": 500})
    said = describe_protocol(other, "fp32")
    assert said.startswith("mae: MAE's linear protocol, not with the paper's settings: ")
    assert "500 steps of batch 16384" in said


@pytest.mark.parametrize(("feature", "at_least"), [("encoder", 0.9), ("code", 0.6)])  # chance is 0.25
def test_probe_reads_an_obvious_class(data: Path, feature: str, at_least: float) -> None:
    longer = {"probe__mae__steps": 150, "probe__mae__validate_every": 60}
    params = tiny_params(**MAE | longer, probe__feature=feature)
    metrics = run_probe(params, data / "tokenizer", data / "shards", Path("curves"))
    for part in ("prologue", "visual_first3"):
        assert metrics[f"{part}_{feature}_mae_top1"] >= at_least
        assert metrics[f"{part}_{feature}_mae_top5"] == 1
    assert (metrics["train_images"], metrics["val_images"], metrics["steps"]) == (60, 24, 150)
    assert metrics["protocol"] == describe_protocol(params.probe.mae, "fp32")
    points = np.loadtxt("curves/val/prologue_top1.tsv", skiprows=1)
    assert points[:, 0].tolist() == [60, 120, 150]
    assert points[-1, 1] == metrics[f"prologue_{feature}_mae_top1"]


def heads(folder: Path) -> dict[str, torch.Tensor]:
    """Weights, running statistics and momenta after the last step of a run in `folder`."""
    (last,) = folder.glob(".work/probe/*/step_00000060")
    return load_file(last / "modules.safetensors") | load_file(last / "optimizers.safetensors")


def launch_probe(preloaded: Preloaded, folder: Path, data: Path, processes: int = 1) -> Launch:
    """The probe as a launch of its own."""
    if not folder.exists():
        shutil.copytree(data / "tokenizer", folder / "tokenizer")
    return Launch(preloaded, folder, TRAINING, data / "shards", "probe", *words(MAE), processes=processes)


@pytest.fixture(scope="module")
def uninterrupted(preloaded: Preloaded, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    launch_probe(preloaded, folder, data).finish()
    return folder


def test_a_killed_probe_ends_with_the_bits_of_an_uninterrupted_one(
    data: Path, uninterrupted: Path, tmp_path: Path, preloaded: Preloaded
) -> None:
    folder = tmp_path / "killed"
    for after in (5, 31):
        run = launch_probe(preloaded, folder, data)
        run.wait_for_checkpoint("probe", after)
        run.kill()
    assert "resuming from" in launch_probe(preloaded, folder, data).finish()
    expected, got = heads(uninterrupted), heads(folder)
    assert expected.keys() == got.keys()
    assert {"prologue/linear.weight", "visual/norm.running_var", "visual/linear.bias/momentum_buffer"} <= got.keys()
    for name in expected:
        assert torch.equal(expected[name], got[name]), name
    assert_same_curves(uninterrupted / "curves", folder / "curves")


def test_two_processes_train_as_one(data: Path, uninterrupted: Path, tmp_path: Path, preloaded: Preloaded) -> None:
    launch_probe(preloaded, tmp_path / "two", data, processes=2).finish()
    expected, got = heads(uninterrupted), heads(tmp_path / "two")
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)
    for curve in (uninterrupted / "curves").rglob("*.tsv"):
        again = tmp_path / "two" / curve.relative_to(uninterrupted)
        one, two = (np.loadtxt(path, skiprows=1, ndmin=2)[:, -1] for path in (curve, again))
        np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-5, err_msg=str(curve))


def test_crops_depend_on_seed_epoch_and_index_only(data: Path) -> None:
    images = ImageShards(data / "shards", "train")

    def crops(seed: int, batch: int, start: int, stop: int, processes: int) -> dict[tuple[int, int], torch.Tensor]:
        found: dict[tuple[int, int], torch.Tensor] = {}
        for rank in range(processes):
            crop = partial(random_resized_crop, size=8)
            steps = training_batches(images, crop, seed, batch, start, stop, rank, processes)
            for step, (pixels, labels) in enumerate(steps, start):
                epochs, indices = epoch_indices(len(images), seed, batch, step)
                own = slice(rank * batch // processes, (rank + 1) * batch // processes)
                assert torch.equal(labels, torch.from_numpy(images.labels[indices[own]]))
                found |= dict(zip(zip(epochs[own], indices[own], strict=True), pixels, strict=True))
        return found

    one, two = crops(seed=0, batch=20, start=0, stop=6, processes=1), crops(0, 8, 4, 15, processes=2)
    assert len(one) == 120  # two epochs
    assert len(two) == 88
    assert all(torch.equal(one[key], pixels) for key, pixels in two.items())
    other = crops(seed=1, batch=20, start=0, stop=3, processes=1)
    for index in range(60):
        assert not torch.equal(one[0, index], one[1, index])
        assert not torch.equal(one[0, index], other[0, index])


def test_crops_are_distributed_as_torchvisions() -> None:
    """Red is the column and green the row of a pixel: a crop tells which part of the image it shows."""
    width, height, count = 240, 160, 1500
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width)[None], np.arange(height)[:, None]
    data, rng = encoded(Image.fromarray(pixels), "PNG"), np.random.default_rng(0)
    own, mirrored = [], 0
    for _ in range(count):
        crop = random_resized_crop(data, 64, rng)
        assert (crop.dtype, crop.shape) == (torch.uint8, (3, 64, 64))
        columns, rows = crop[0, 32].double(), crop[1, :, 32].double()
        mirrored += int(columns[55] < columns[8])
        w, h = abs(columns[55] - columns[8]).item() * 64 / 47, (rows[55] - rows[8]).item() * 64 / 47
        own.append((w * h / (width * height), w / h, columns[31:33].mean().item(), rows[31:33].mean().item()))
    assert 0.46 * count < mirrored < 0.54 * count
    torch.manual_seed(0)
    theirs = []
    for _ in range(count):
        top, left, h, w = RandomResizedCrop.get_params(torch.from_numpy(pixels[..., 0]), (0.08, 1.0), (3 / 4, 4 / 3))
        theirs.append((w * h / (width * height), w / h, left + (w - 1) / 2, top + (h - 1) / 2))
    for name, one, two in zip(("area", "ratio", "column", "row"), np.array(own).T, np.array(theirs).T, strict=True):
        assert ks_2samp(one, two).pvalue > 0.01, name
    areas, ratios = np.array(own).T[:2]
    assert 0.07 < areas.min() < 0.1
    assert 0.85 < areas.max() < 0.9  # 4:3 in an image of 3:2
    assert 0.72 < ratios.min() < 0.78
    assert 1.28 < ratios.max() < 1.4


@pytest.mark.parametrize(("width", "height", "box"), [(400, 20, (0, 186, 20, 27)), (20, 400, (186, 0, 27, 20))])
def test_no_crop_fits_a_narrow_image_and_pixels_are_torchvisions(
    width: int, height: int, box: tuple[int, int, int, int]
) -> None:
    """Every draw is too large for these, so that their centre is taken: (top, left, height, width)."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    image = Image.fromarray(noise)
    expected = np.asarray(F.resized_crop(image, *box, [16, 16], InterpolationMode.BICUBIC))
    seen = set()
    for seed in range(8):
        crop = random_resized_crop(encoded(image, "PNG"), 16, np.random.default_rng(seed)).permute(1, 2, 0).numpy()
        seen.add("plain" if np.array_equal(crop, expected) else "mirrored")
        assert np.array_equal(crop, expected) or np.array_equal(crop[:, ::-1], expected)
    assert seen == {"plain", "mirrored"}
