"""Likelihood at every position, and the sweep of a sampling setting, on a model trained at toy size."""

import fcntl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from calls import record_calls
from tiny import tiny_params
from waiting import wait_until

from prologue.core import work
from prologue.core.params_file import ParamsError
from prologue.core.runtime import start_accelerator
from prologue.evaluation import sweep
from prologue.evaluation.likelihood import evaluate_ar
from prologue.evaluation.reference import compute_reference
from prologue.evaluation.sweep import sweep_sampling
from prologue.models.saved import load_ar
from prologue.pipeline.samples import make_samples
from prologue.sampling import samples
from prologue.tokens.cache import TokenCache
from prologue.tokens.likelihood import evaluate_likelihood


@pytest.fixture(scope="module")
def reference(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "reference"
    compute_reference(tiny_params(), shards, folder)
    return folder


def run(trained: Path, reference: Path, **overrides: object) -> dict[str, Any]:
    models = (trained / "ar", trained / "tokenizer", trained / "tokens")
    return sweep_sampling(tiny_params(**overrides), *models, reference, Path("sweep"), Path("figures"))


def sample(trained: Path, shards: Path, **overrides: object) -> dict[str, Any]:
    models = (trained / "ar", trained / "tokenizer", trained / "tokens")
    return make_samples(tiny_params(**overrides), *models, shards, Path("sweep"), Path("samples"), Path("pictures"))


def test_both_runs_are_sampled_at_the_best_settings_by_training_images(
    trained: Path, shards: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    metrics = run(trained, reference, sweep__temperatures=[0.5, 1.5], sweep__adopt=True)
    assert list(metrics["points"]) == ["1", "2.5"]
    assert metrics["reference_split"] == "train"
    best = {}
    for name, points in {"guidance": metrics["points"], **metrics["temperatures"]}.items():
        distances = {float(value): point["gfd_lite2"] for value, point in points.items()}
        assert len(set(distances.values())) == 2
        best[name] = min(distances, key=distances.__getitem__)
    assert metrics["adopted"] == {
        "cfg": {"visual.guidance": best["guidance"], "visual.temperature": best["cfg"]},
        "no_cfg": {"visual.temperature": best["no_cfg"]},
    }
    assert float(metrics["best"]) == best["guidance"]
    assert sample(trained, shards)["adopted"] == metrics["adopted"]
    tuned = {run: np.load(f"samples/{run}.npz")["arr_0"] for run in ("cfg", "no_cfg")}
    run(trained, reference, sweep__temperatures=[0.5, 1.5])
    settings = {"sampling__cfg__visual__guidance": best["guidance"], "sampling__cfg__visual__temperature": best["cfg"]}
    sample(trained, shards, **settings, sampling__no_cfg__visual__temperature=best["no_cfg"])
    for name, images in tuned.items():
        np.testing.assert_array_equal(np.load(f"samples/{name}.npz")["arr_0"], images)
    sample(trained, shards)
    assert any((np.load(f"samples/{name}.npz")["arr_0"] != images).any() for name, images in tuned.items())


def test_tries_are_of_other_images_than_the_samples(
    trained: Path, shards: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sampled = record_calls(monkeypatch, sweep, "sample_images")
    drawn = record_calls(monkeypatch, samples, "sample_images")
    run(trained, reference)
    sample(trained, shards)
    tried, used = ({call[3] for call in calls} for calls in (sampled, drawn))
    assert tried == {(0, sweep.TUNING)}
    assert used == {(0,)}
    metrics = run(trained, reference)
    distances = {value: point["gfd_lite2"] for value, point in metrics["points"].items()}
    table = pd.read_csv("figures/sweep.csv")
    assert table["visual.guidance"].tolist() == [1.0, 2.5]
    np.testing.assert_allclose(table["gfd_lite2"], list(distances.values()))
    assert Path("figures/sweep.png").stat().st_size > 1000


def test_a_further_value_costs_only_its_own(
    trained: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sampled = record_calls(monkeypatch, sweep, "sample_images")
    first = run(trained, reference)
    assert len(sampled) == 2
    assert f"visual.guidance is best at {first['best']}, an end of what was tried" in capsys.readouterr().err
    more = run(trained, reference, sweep__values=[1.0, 1.5, 2.5])
    assert len(sampled) == 3
    for value in ("1", "2.5"):
        assert more["points"][value] == first["points"][value]
    assert run(trained, reference, sweep__values=[])["points"] == {}
    run(trained, reference, seed=1)
    assert len(sampled) == 5


def test_two_runs_of_the_same_try_wait_for_each_other(
    trained: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first, said = run(trained, reference), ""

    def is_waiting() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "another run works in" in said

    (other, _) = (path for path in Path(".work/sweep").iterdir() if path.is_dir())
    with work._lock_file(other) as lock, ThreadPoolExecutor(1) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = pool.submit(run, trained, reference)
        wait_until(is_waiting)
        assert not second.done()
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert second.result() == first
    assert not work.is_claimed(other)


def test_values_out_of_range_and_axes_without_effect_are_refused_before_any_work() -> None:
    with pytest.raises(ParamsError, match=r"sweep\.values: visual\.top_p cannot be 1\.5"):
        tiny_params(sweep__axis="visual.top_p", sweep__values=[0.5, 1.5])
    with pytest.raises(ParamsError, match=r"visual\.top_k cannot be 2\.5"):
        tiny_params(sweep__axis="visual.top_k", sweep__values=[2.5])
    with pytest.raises(ParamsError, match="no effect without a prologue"):
        tiny_params(sweep__axis="prologue.guidance", prologue__mode="none")


def test_likelihood_at_every_position(trained: Path, tmp_path: Path) -> None:
    metrics = evaluate_ar(trained / "ar", trained / "tokens", tmp_path / "figures")
    ar, cache = load_ar(trained / "ar"), TokenCache(trained / "tokens", "val")
    tokens = cache.read(np.arange(len(cache)))
    log_p = ar(tokens.prologue, tokens.visual, torch.from_numpy(cache.labels)).double().log_softmax(-1)
    targets = ar.vocabulary.sequence(tokens.prologue, tokens.visual)
    loss = -log_p.gather(2, targets[..., None]).squeeze(2).mean(0)
    entropy = -(log_p.exp() * log_p).sum(-1).mean(0)
    table = pd.read_csv(tmp_path / "figures" / "per_position.csv")
    np.testing.assert_allclose(table["loss"], loss.detach(), rtol=1e-5)
    np.testing.assert_allclose(table["entropy"], entropy.detach(), rtol=1e-5)
    assert table["segment"].tolist() == ["prologue"] * 3 + ["eos"] + ["visual"] * 16
    assert metrics["loss"] == pytest.approx(loss.mean().item(), rel=1e-5)
    assert metrics["visual_conditional_entropy"] == pytest.approx(entropy[4:].mean().item(), rel=1e-5)
    assert metrics["prologue_loss"] == pytest.approx(loss[:3].mean().item(), rel=1e-5)
    nats = metrics["nats"]
    for segment, places in {"prologue": slice(3), "eos": slice(3, 4), "visual": slice(4, None)}.items():
        assert nats[segment] == pytest.approx(loss[places].sum().item(), rel=1e-5)
    assert nats["total"] == pytest.approx(loss.sum().item(), rel=1e-5)
    dawn, dusk = (np.flatnonzero(cache.labels == label) for label in (0, 1))
    others = np.empty(len(cache), np.int64)
    others[dawn], others[dusk] = np.roll(dawn, -1), np.roll(dusk, -1)
    assert tokens.prologue is not None
    swapped = ar.losses(tokens.prologue[others], tokens.visual, torch.from_numpy(cache.labels))[:, 4:]
    gain = swapped.double().mean(0).sum() - loss[4:].sum()
    assert metrics["prologue_gain_nats"] == pytest.approx(gain.item(), rel=1e-3)


def test_an_image_alone_in_its_class_says_nothing_of_what_a_prologue_tells(trained: Path) -> None:
    ar, cache = load_ar(trained / "ar"), TokenCache(trained / "tokens", "val")
    accelerator, first = start_accelerator(), np.arange(3)
    cache.labels = np.array([0, 0, 1, *range(2, 2 + len(cache) - 3)])
    both = evaluate_likelihood(ar, cache, first[:2], accelerator)["prologue_gain_nats"]
    assert evaluate_likelihood(ar, cache, first, accelerator)["prologue_gain_nats"] == pytest.approx(both, rel=1e-5)
    assert "prologue_gain_nats" not in evaluate_likelihood(ar, cache, first[2:], accelerator)
