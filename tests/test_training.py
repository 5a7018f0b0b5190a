"""Both training stages: a killed run ends as an uninterrupted one, and what is wrong stops with its name."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny_params
from safetensors.torch import load_file

from prologue.data.images import ImageShards
from prologue.data.tokens import TokenCache, write_tokens
from prologue.data.transforms import crop_views
from prologue.errors import PrologueError
from prologue.models.export import load_tokenizer
from prologue.params import Params
from prologue.training import tokenizer as tokenizer_training
from prologue.training.ar import train_ar
from prologue.training.attach import attach_prologue
from prologue.training.ema import EMA
from prologue.training.loop import Curves
from prologue.training.optimizers import learning_rate
from prologue.training.tokenizer import train_tokenizer

KILLED_AFTER = 5  # steps; the last checkpoint is of step 4


class Killed(BaseException):
    """Stands for a signal that no code handles."""


@pytest.fixture(autouse=True)
def _own_work_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def kill_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Make training die when it logs step `steps`, right after its update."""
    log = Curves.log

    def dying(self: Curves, step: int, prefix: str, values: dict[str, float]) -> None:
        log(self, step, prefix, values)
        if step == steps:
            raise Killed

    monkeypatch.setattr(Curves, "log", dying)


def stage1(params: Params, shards: Path, name: str) -> Path:
    train_tokenizer(params, shards, Path(name), Path(f"{name}_curves"))
    return Path(name)


def stage2(params: Params, shards: Path, name: str) -> Path:
    if not Path("tokens").exists():
        stage1(params, shards, "tokenizer")
        write_tokens(params, Path("tokenizer"), shards, Path("tokens"))
    train_ar(params, Path("tokens"), Path(name), Path(f"{name}_curves"))
    return Path(name)


@pytest.mark.parametrize("stage", [stage1, stage2])
def test_a_killed_stage_ends_with_the_weights_and_curves_of_an_uninterrupted_one(
    stage: Callable[[Params, Path, str], Path],
    shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    params = tiny_params()
    whole = stage(params, shards, "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, KILLED_AFTER)
        with pytest.raises(Killed):
            stage(params, shards, "killed")
    assert not Path("killed").exists()  # no half output
    resumed = stage(params, shards, "killed")
    assert "resuming from" in capsys.readouterr().out
    expected, got = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    for curve in Path("whole_curves").rglob("*.tsv"):
        again = Path("killed_curves") / curve.relative_to("whole_curves")
        columns = [[line.split("\t")[1:] for line in path.read_text().splitlines()] for path in (curve, again)]
        assert columns[0] == columns[1], curve
    assert not list(Path(".work").glob("*/*"))  # nothing is left to resume by mistake


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    params = tiny_params()
    whole = stage1(params, shards, "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, KILLED_AFTER)
        with pytest.raises(Killed):
            stage1(params, shards, "killed")
    newest = sorted(Path(".work/tokenizer").glob("*/step_*"))[-1] / "modules.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    resumed = stage1(params, shards, "killed")
    output = capsys.readouterr()
    assert f"{newest.parent} is damaged" in output.err
    assert "step_00000002" in output.out
    expected, got = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_other_params_never_resume_a_state(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_after(patch, KILLED_AFTER)
        with pytest.raises(Killed):
            stage1(tiny_params(), shards, "killed")
    changed = tiny_params(stage1__lr=0.5e-3)
    after_a_kill = load_file(stage1(changed, shards, "changed") / "model.safetensors")
    fresh = load_file(stage1(changed, shards, "fresh") / "model.safetensors")
    assert all(torch.equal(after_a_kill[name], fresh[name]) for name in fresh)


def test_a_loss_that_is_not_finite_stops_with_its_name_and_step(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_training, "generator_loss", lambda logits: logits.mean() * float("nan"))
    with pytest.raises(PrologueError, match=r"step 1: adversarial is not finite"):
        stage1(tiny_params(), shards, "broken")
    assert not Path("broken").exists()


def test_post_leaves_every_visual_weight_and_image_as_it_was(shards: Path) -> None:
    params = tiny_params(prologue__mode="post")
    frozen = stage1(params, shards, "tokenizer")
    attach_prologue(params, frozen, shards, Path("attached"), Path("curves"))
    before, after = load_file(frozen / "model.safetensors"), load_file(Path("attached") / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(name.startswith("prologue_encoder.") for name in after)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    one, two = load_tokenizer(frozen), load_tokenizer(Path("attached"))
    assert torch.equal(one.encode(images).visual, two.encode(images).visual)
    assert two.encode(images).prologue.shape == (3, params.prologue.tokens)


def test_training_lowers_the_losses_of_both_stages(shards: Path) -> None:
    longer = {"stage1__steps": 40, "stage1__flat": 30, "ar__steps": 60, "ar__label_drop": 0.0}
    params = tiny_params(**longer)
    stage2(params, shards, "ar")
    for curve in ("tokenizer_curves/train/l1.tsv", "tokenizer_curves/train/ar_loss.tsv", "ar_curves/train/loss.tsv"):
        values = [float(line.split("\t")[-1]) for line in Path(curve).read_text().splitlines()[1:]]
        assert sum(values[-5:]) < 0.9 * sum(values[:5]), curve


def test_the_token_cache_holds_what_the_tokenizer_encodes(shards: Path) -> None:
    params = tiny_params(tokens__crops="ten")
    folder = stage1(params, shards, "tokenizer")
    write_tokens(params, folder, shards, Path("tokens"))
    cache = TokenCache(Path("tokens"), "train")
    assert (len(cache), cache.views) == (40, 10)
    images = ImageShards(shards, "train")
    tokenizer = load_tokenizer(folder)
    for index, view in ((0, 0), (17, 4), (39, 9)):
        pixels = torch.from_numpy(crop_views(images.image(index), 16, "ten")[view]).permute(2, 0, 1)[None]
        expected, cached = tokenizer.encode(pixels), cache.read(np.array([index]), np.array([view]))
        assert torch.equal(expected.visual, cached.visual)
        assert torch.equal(expected.prologue, cached.prologue)
        assert cache.labels[index] == images.labels[index]


def test_the_schedule_warms_up_stays_and_falls() -> None:
    schedule = tiny_params(stage1__steps=10, stage1__warmup=2, stage1__flat=3).stage1
    rates = [learning_rate(schedule, step) for step in range(10)]
    assert rates[0] == schedule.lr / 2
    assert rates[1:6] == [schedule.lr] * 5
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(schedule.lr_end)


def test_the_ema_forgets_half_in_a_half_life() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    ema = EMA(model, half_life=7)
    torch.nn.init.ones_(model.weight)
    for _ in range(7):
        ema.update(model)
    assert ema.model.weight.item() == pytest.approx(0.5, abs=1e-5)


def test_two_processes_train_as_one(shards: Path, tmp_path: Path) -> None:
    """Gloo, both stages; batch norm sees half batches, so the discriminator is left out."""
    script = tmp_path / "two.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        "from pathlib import Path\n"
        "from conftest import tiny_params\n"
        "from prologue.training.tokenizer import train_tokenizer\n"
        "from prologue.training.ar import train_ar\n"
        "from prologue.data.tokens import write_tokens\n"
        "params = tiny_params(stage1__adversarial=0.0, ar__dropout=0.0, ar__embedding_dropout=0.0)\n"
        "name, shards = sys.argv[1], Path(sys.argv[2])\n"
        "train_tokenizer(params, shards, Path(name, 'tokenizer'), Path(name, 'curves1'))\n"
        "write_tokens(params, Path(name, 'tokenizer'), shards, Path(name, 'tokens'))\n"
        "train_ar(params, Path(name, 'tokens'), Path(name, 'ar'), Path(name, 'curves2'))\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    for count, name in ((1, "one"), (2, "two")):
        subprocess.run([*launch, str(count), str(script), name, str(shards)], check=True, timeout=240, cwd=tmp_path)
    for model in ("tokenizer", "ar"):
        one, two = (load_file(tmp_path / name / model / "model.safetensors") for name in ("one", "two"))
        for key in one:
            torch.testing.assert_close(one[key], two[key], rtol=1e-2, atol=2e-4)
