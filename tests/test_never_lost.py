"""Both training stages, as processes: a stopped run ends as an uninterrupted one, and launches agree."""

import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from launches import TRAINING, Launch, assert_same, assert_same_curves, run_on_two, words
from preloaded import Preloaded
from safetensors.torch import load_file

from prologue.core.files import read_json, write_json

LONGER: dict[str, object] = {"stage1__steps": 40, "stage1__flat": 30, "ar__steps": 60, "ar__flat": 40}
BOTH = "tokenizer,tokens,ar"
DIFFERENT_WORK = """
import os
os.environ["PROLOGUE_WORK"] = "work" + os.environ["RANK"]
from training_run import main
try:
    main()
except SystemExit as ended:
    assert "differ in the step that they go on from: 6, 0" in str(ended), ended
else:
    raise AssertionError("it trained")
"""


def weights_of(checkpoint: Path, module: str) -> dict[str, torch.Tensor]:
    """The state of a module in a checkpoint."""
    tensors = load_file(checkpoint / "modules.safetensors").items()
    return {name.removeprefix(f"{module}/"): tensor for name, tensor in tensors if name.startswith(f"{module}/")}


@pytest.fixture(scope="module")
def uninterrupted(preloaded: Preloaded, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages at toy size, never stopped."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    Launch(preloaded, folder, TRAINING, shards, BOTH, *words(LONGER)).finish()
    return folder


def test_kill_9_at_random_moments_ends_with_the_bits_of_an_uninterrupted_run(
    uninterrupted: Path, shards: Path, tmp_path: Path, preloaded: Preloaded
) -> None:
    moments = np.random.default_rng(0)
    for stage, steps in (("tokenizer", 40), ("tokenizer", 40), ("ar", 60), ("ar", 60)):
        run = Launch(preloaded, tmp_path / "killed", TRAINING, shards, BOTH, *words(LONGER))
        done = [0, *(int(path.name[5:]) for path in run.checkpoints(stage))]  # of the run before, which it goes on from
        run.wait_for_checkpoint(stage, after=max(done) + int(moments.integers(1, steps // 3)))
        with pytest.raises(subprocess.TimeoutExpired):  # anywhere within a step, a checkpoint or a validation
            run.processes[0].wait(timeout=moments.uniform(0, 0.05))
        run.kill()
    output = Launch(preloaded, tmp_path / "killed", TRAINING, shards, BOTH, *words(LONGER)).finish()
    assert output.count("resuming from") == 2  # Stage 1 had finished: its last checkpoint is exported again
    for name in ("tokenizer", "ar"):
        assert_same(uninterrupted / name, tmp_path / "killed" / name)
        assert_same_curves(uninterrupted / "curves" / name, tmp_path / "killed" / "curves" / name)


def test_the_tokenizers_ema_is_exported_and_the_raw_weights_of_both_ar_models(uninterrupted: Path) -> None:
    exported = (("tokenizer", "tokenizer", "ema"), ("tokenizer/ar", "tokenizer", "joint_ar"), ("ar", "ar", "ar"))
    for folder, stage, module in exported:
        *_, last = sorted(uninterrupted.glob(f".work/{stage}/*/step_*"))
        weights = load_file(uninterrupted / folder / "model.safetensors")
        expected = weights_of(last, module)
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in weights), folder
    *_, last = sorted(uninterrupted.glob(".work/ar/*/step_*"))
    raw, ema = weights_of(last, "ar"), weights_of(last, "ema")
    assert not any(torch.equal(raw[name], ema[name]) for name in raw if raw[name].ndim > 1)


def test_ctrl_c_saves_the_step_and_ends_cleanly(
    uninterrupted: Path, shards: Path, tmp_path: Path, preloaded: Preloaded
) -> None:
    every = "stage1.checkpoint_every=1000"  # no checkpoint is due when Ctrl-C comes
    run = Launch(preloaded, tmp_path / "stopped", TRAINING, shards, "tokenizer", *words(LONGER), every)
    run.wait_for_steps(5)
    run.processes[0].send_signal(signal.SIGINT)
    output = run.output()
    assert run.processes[0].status == 1
    assert "which is saved; run the same command to go on" in output
    assert "Traceback" not in output
    assert len(run.checkpoints("tokenizer")) == 1
    Launch(preloaded, tmp_path / "stopped", TRAINING, shards, "tokenizer", *words(LONGER), every).finish()
    assert_same(uninterrupted / "tokenizer", tmp_path / "stopped" / "tokenizer")


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    uninterrupted: Path, shards: Path, tmp_path: Path, preloaded: Preloaded
) -> None:
    run = Launch(preloaded, tmp_path / "killed", TRAINING, shards, "tokenizer", *words(LONGER))
    run.wait_for_checkpoint("tokenizer", after=4)
    run.kill()
    *_, before, newest = run.checkpoints("tokenizer")
    file = newest / "modules.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    output = Launch(preloaded, tmp_path / "killed", TRAINING, shards, "tokenizer", *words(LONGER)).finish()
    assert f"{newest.relative_to(run.folder)} is damaged" in output
    assert f"resuming from {before.relative_to(run.folder)}" in output
    assert_same(uninterrupted / "tokenizer", tmp_path / "killed" / "tokenizer")


def test_other_params_never_resume_a_state_unless_asked(shards: Path, tmp_path: Path, preloaded: Preloaded) -> None:
    def launch(*own: str, env: str = "") -> Launch:
        given = [shards, "tokenizer", *words(LONGER), *own]
        return Launch(preloaded, tmp_path / "killed", TRAINING, *given, env={"PROLOGUE_RESUME": env})

    run = launch()
    run.wait_for_checkpoint("tokenizer", after=4)
    run.kill()
    *_, newest = run.checkpoints("tokenizer")
    kept, step = newest.parent.relative_to(run.folder), int(newest.name[5:])
    refused = launch("prologue.tau=0.5", env=".work/tokenizer/nothing")
    assert "PROLOGUE_RESUME=.work/tokenizer/nothing: there is no checkpoint" in refused.output()
    assert refused.processes[0].status == 1
    refused = launch("tokenizer.codebook=48", env=str(kept))
    assert "does not fit: ema/visual_quantizer.codebook.weight is [32, 14] there, [48, 14] here" in refused.output()
    refused = launch("stage1.steps=4", "stage1.flat=1", env=str(kept))
    assert f"it has done {step} steps, this run has 4" in refused.output()
    assert newest in run.checkpoints("tokenizer")

    afresh = launch("stage1.lr=0.0005").finish()
    assert "resuming" not in afresh
    assert f"{kept} holds unfinished work of this stage, {step} steps, that was made otherwise:" in afresh
    assert "param stage1.lr: 0.001 there, 0.0005 here" in afresh
    assert newest in run.checkpoints("tokenizer")  # it can still go on later

    origin = run.folder / kept / "made_of.json"  # as if a module had been changed
    made_of = read_json(origin)
    write_json(origin, made_of | {"code": made_of["code"] | {"prologue/training/ema.py": "0123456789ab"}})
    seconds = read_json(newest / "checkpoint.json")["seconds"]
    adopted = launch("prologue.tau=0.5", env=str(kept)).finish()
    assert f"/step_{step:08d}" in adopted
    metrics = read_json(run.folder / "metrics" / "tokenizer.json")
    (record,) = metrics["resumed_from"]
    assert (record["work"], record["step"]) == (kept.name, step)
    assert seconds > 0
    assert metrics["earlier_seconds"] == pytest.approx(seconds, abs=0.11)  # less what it waited for the folder
    assert record["differences"] == ["param prologue.tau: 1.0 there, 0.5 here", "code prologue/training/ema.py"]


def test_processes_that_see_different_work_are_stopped(shards: Path, tmp_path: Path, preloaded: Preloaded) -> None:
    """As on machines that do not share .work: each would train from another step."""
    Launch(preloaded, tmp_path, TRAINING, shards, "tokenizer", env={"PROLOGUE_WORK": "work0"}).finish()
    run_on_two(preloaded, tmp_path, DIFFERENT_WORK, shards, "tokenizer")


@pytest.mark.parametrize(
    ("own", "stages", "env"),
    [
        (["stage1.batch=4", "ar.batch=4"], BOTH, {}),
        (["stage1.batch=6", "ar.batch=6"], BOTH, {}),  # 40 images divide by neither
        (["prologue.mode=post", "stage1.adversarial=0"], "tokenizer,attach", {"PROLOGUE_MICRO_BATCH": "1"}),
        (["prologue.mode=routed", "stage1.adversarial=0"], "tokenizer", {"PROLOGUE_MICRO_BATCH": "1"}),
    ],
    ids=["4", "6", "post", "routed"],
)
def test_two_processes_train_as_one(
    own: list[str], stages: str, env: dict[str, str], shards: Path, tmp_path: Path, preloaded: Preloaded
) -> None:
    """Gloo, with discriminator, LeCam, R1, dropout and label drop, or in micro-batches."""
    given = [shards, stages, *own, "tokens.crops=flip", "data.images_per_shard=16"]
    for count in (1, 2):
        Launch(preloaded, tmp_path / str(count), TRAINING, *given, processes=count, env=env).finish()
    for stage in stages.replace("tokens,", "").split(","):
        curves = sorted((tmp_path / "1" / "curves" / stage).rglob("*.tsv"))
        assert curves
        for curve in curves:
            again = tmp_path / "2" / curve.relative_to(tmp_path / "1")
            one, two = (np.loadtxt(path, skiprows=1, ndmin=2)[:, -1] for path in (curve, again))
            np.testing.assert_allclose(one, two, rtol=2e-3, atol=1e-4, err_msg=str(curve))
        folder = "attached" if stage == "attach" else stage
        weights, others = (load_file(tmp_path / count / folder / "model.safetensors") for count in "12")
        for name in weights:
            torch.testing.assert_close(weights[name], others[name], rtol=1e-2, atol=2e-4, msg=name)
