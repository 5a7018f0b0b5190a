"""Both training stages, as processes: a stopped run ends as an uninterrupted one, and launches agree."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, wait_until
from safetensors.torch import load_file

SCRIPT = ROOT / "tests" / "training_run.py"
LONGER = {"stage1__steps": 40, "stage1__flat": 30, "ar__steps": 60, "ar__flat": 40}


@pytest.fixture(autouse=True)
def _own_work_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def assert_same(one: Path, two: Path) -> None:
    """Two model folders hold the same bits."""
    expected, got = weights(one), weights(two)
    assert expected.keys() == got.keys()
    for name in expected:
        assert torch.equal(expected[name], got[name]), name


def assert_same_curves(one: Path, two: Path) -> None:
    """Two folders of curves hold the same points, whenever they were written."""
    names = sorted(path.relative_to(one) for path in one.rglob("*.tsv"))
    assert names == sorted(path.relative_to(two) for path in two.rglob("*.tsv"))
    for name in names:
        columns = [[line.split("\t")[1:] for line in (folder / name).read_text().splitlines()] for folder in (one, two)]
        assert columns[0] == columns[1], name


class Process:
    """The training script as a process of its own, in a folder of its own."""

    def __init__(self, folder: Path, shards: Path, stages: str, *words: str, launch: tuple[str, ...] = ()) -> None:
        folder.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, *launch, str(SCRIPT), str(shards), stages, *words],
            cwd=folder, env={**os.environ, "PROLOGUE_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        self.folder = folder

    def checkpoints(self, stage: str) -> list[Path]:
        return sorted(self.folder.glob(f".work/{stage}/*/step_*"))

    def wait_for_checkpoint(self, stage: str, after: int) -> None:
        """Wait until there is a checkpoint of a later step than `after`, while the process runs."""
        self._wait_until(lambda: any(int(path.name[5:]) > after for path in self.checkpoints(stage)))

    def wait_for_steps(self, steps: int) -> None:
        """Wait until so many steps are in the training curves, while the process runs."""
        curve = "curves/plots/metrics/train/l1.tsv"
        self._wait_until(
            lambda: any(len(path.read_text().splitlines()) > steps for path in self.folder.glob(f".work/*/*/{curve}"))
        )

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        wait_until(lambda: self.process.poll() is not None or condition())
        assert self.process.poll() is None, self.output()

    def output(self) -> str:
        """Wait for the end; what the process printed."""
        return self.process.communicate(timeout=240)[0]

    def finish(self) -> str:
        """Wait for the end, which must be a good one; what the process printed."""
        output = self.output()
        assert self.process.returncode == 0, output
        return output


def words(values: dict[str, object]) -> list[str]:
    return [f"{key.replace('__', '.')}={value}" for key, value in values.items()]


@pytest.fixture(scope="module")
def uninterrupted(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages at toy size, never stopped."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    Process(folder, shards, "tokenizer,tokens,ar", *words(LONGER)).finish()
    return folder


def test_kill_9_at_random_moments_ends_with_the_bits_of_an_uninterrupted_run(
    uninterrupted: Path, shards: Path, tmp_path: Path
) -> None:
    moments = np.random.default_rng(0)
    for stage, steps in (("tokenizer", 40), ("tokenizer", 40), ("ar", 60), ("ar", 60)):
        run = Process(tmp_path / "killed", shards, "tokenizer,tokens,ar", *words(LONGER))
        run.wait_for_checkpoint(stage, after=int(moments.integers(0, steps // 2)))
        with pytest.raises(subprocess.TimeoutExpired):  # anywhere within a step, a checkpoint or a validation
            run.process.wait(timeout=moments.uniform(0, 0.05))
        run.process.kill()
        run.output()
    output = Process(tmp_path / "killed", shards, "tokenizer,tokens,ar", *words(LONGER)).finish()
    assert output.count("resuming from") == 2  # Stage 1 had finished: its last checkpoint is exported again
    for name in ("tokenizer", "ar"):
        assert_same(uninterrupted / name, tmp_path / "killed" / name)
        assert_same_curves(uninterrupted / "curves" / name, tmp_path / "killed" / "curves" / name)


def test_ctrl_c_saves_the_step_and_ends_cleanly(uninterrupted: Path, shards: Path, tmp_path: Path) -> None:
    every = "stage1.checkpoint_every=1000"  # no checkpoint is due when Ctrl-C comes
    run = Process(tmp_path / "stopped", shards, "tokenizer", *words(LONGER), every)
    run.wait_for_steps(5)
    run.process.send_signal(signal.SIGINT)
    output = run.output()
    assert run.process.returncode == 1
    assert "which is saved; run the same command to go on" in output
    assert "Traceback" not in output
    assert len(run.checkpoints("tokenizer")) == 1
    Process(tmp_path / "stopped", shards, "tokenizer", *words(LONGER), every).finish()
    assert_same(uninterrupted / "tokenizer", tmp_path / "stopped" / "tokenizer")


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    uninterrupted: Path, shards: Path, tmp_path: Path
) -> None:
    run = Process(tmp_path / "killed", shards, "tokenizer", *words(LONGER))
    run.wait_for_checkpoint("tokenizer", after=4)
    run.process.kill()
    run.output()
    *_, before, newest = run.checkpoints("tokenizer")
    file = newest / "modules.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    output = Process(tmp_path / "killed", shards, "tokenizer", *words(LONGER)).finish()
    assert f"{newest.relative_to(run.folder)} is damaged" in output
    assert f"resuming from {before.relative_to(run.folder)}" in output
    assert_same(uninterrupted / "tokenizer", tmp_path / "killed" / "tokenizer")


def test_other_params_never_resume_a_state(shards: Path, tmp_path: Path) -> None:
    run = Process(tmp_path / "killed", shards, "tokenizer", *words(LONGER))
    run.wait_for_checkpoint("tokenizer", after=0)
    run.process.kill()
    run.output()
    kept = run.checkpoints("tokenizer")
    output = Process(tmp_path / "killed", shards, "tokenizer", "stage1.lr=0.0005").finish()
    assert "resuming" not in output
    assert set(kept) <= set(run.checkpoints("tokenizer"))  # it can still go on later


@pytest.mark.parametrize("batch", [4, 6])
def test_two_processes_train_as_one(shards: Path, tmp_path: Path, batch: int) -> None:
    """Gloo, both stages, with discriminator, LeCam, R1, dropout and label drop; 40 images divide by neither batch."""
    sizes = [f"stage1.batch={batch}", f"ar.batch={batch}", "tokens.crops=flip", "data.images_per_shard=16"]
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
    runs = {
        count: Process(tmp_path / str(count), shards, "tokenizer,tokens,ar", *sizes, launch=(*launch, str(count)))
        for count in (1, 2)
    }
    for run in runs.values():
        run.finish()
    for stage in ("tokenizer", "ar"):
        for curve in (tmp_path / "1" / "curves" / stage).rglob("*.tsv"):
            again = tmp_path / "2" / curve.relative_to(tmp_path / "1")
            one, two = (np.loadtxt(path, skiprows=1, ndmin=2)[:, -1] for path in (curve, again))
            np.testing.assert_allclose(one, two, rtol=2e-3, atol=1e-4, err_msg=str(curve))
        one, two = weights(tmp_path / "1" / stage), weights(tmp_path / "2" / stage)
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=1e-2, atol=2e-4, msg=name)
