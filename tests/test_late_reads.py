"""Losses read every few steps, as on a GPU: the same training, no step that waits, NaN stopped in time."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from launches import assert_same, assert_same_curves
from tiny import tiny_params
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from training_run import run_stages

from prologue.core.errors import PrologueError
from prologue.training import loop
from prologue.training.ar import ARTask
from prologue.training.checkpoint import Checkpoints
from prologue.training.stop import Stopped, StopRequest
from prologue.training.tokenizer import TokenizerTask

READS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.bincount.default,
)


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_reads_at_once", lambda task, device: False)


class Reads(TorchDispatchMode):
    """Counts the operations after which Python waits for a number."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function in READS
        return function(*args, **(kwargs or {}))


def noted(names: list[str], method: Callable[..., Any]) -> Callable[..., Any]:
    """A method whose calls are noted."""

    def call(*arguments: Any) -> Any:
        names.append(method.__name__)
        return method(*arguments)

    return call


def test_the_training_is_the_same_to_the_bit(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = tiny_params(stage1__log_every=3, ar__log_every=3)
    run_stages(params, shards, ["tokenizer", "tokens", "ar"], Path("at_once"))
    monkeypatch.setattr(loop, "_reads_at_once", lambda task, device: False)
    monkeypatch.setenv("PROLOGUE_WORK", "other_work")
    run_stages(params, shards, ["tokenizer", "tokens", "ar"], Path("late"))
    for stage in ("tokenizer", "ar"):
        assert_same(Path("at_once") / stage, Path("late") / stage)
        assert_same_curves(Path("at_once/curves") / stage, Path("late/curves") / stage)


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize(("task", "stages"), [(TokenizerTask, ["tokenizer"]), (ARTask, ["tokenizer", "tokens", "ar"])])
def test_a_step_waits_for_no_number(
    task: Any, stages: list[str], shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, steps = Reads(), []

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with reads:
                steps.append(method.__name__)
                return method(*args)

        return call

    for name in ("gradients", "update"):
        monkeypatch.setattr(task, name, counted(getattr(task, name)))
    run_stages(tiny_params(stage1__r1_every=4), shards, stages)
    assert len(steps) == 12
    assert reads.count == 0
    with reads:
        torch.ones(1).item()
    assert reads.count == 1


@pytest.mark.usefixtures("late")
def test_a_stop_is_no_curve_and_ends_no_process_before_the_step_is_saved(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = tiny_params(stage1__log_every=3, stage1__validate_every=6, stage1__checkpoint_every=6)
    with monkeypatch.context() as patch:
        asked = StopRequest()
        asked.made = True
        patch.setattr(loop, "stop_requests", lambda: nullcontext(asked))
        order: list[str] = []
        patch.setattr(Checkpoints, "save", noted(order, Checkpoints.save))
        patch.setattr(Accelerator, "wait_for_everyone", noted(order, Accelerator.wait_for_everyone))
        with pytest.raises(Stopped, match="stopped at step 3 of 6"):
            run_stages(params, shards, ["tokenizer"])
        assert order[-2:] == ["save", "wait_for_everyone"]
    run_stages(params, shards, ["tokenizer"])
    assert {path.stem for path in Path("curves/tokenizer/train").glob("*.tsv")} >= {"l1"}
    assert not Path("curves/tokenizer/train/stop.tsv").exists()


@pytest.mark.usefixtures("late")
def test_numbers_that_are_not_finite_move_nothing_until_they_are_read(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients, seen = TokenizerTask.gradients, dict[int, list[Tensor]]()

    def broken(self: TokenizerTask, step: int, batch: Any) -> dict[str, Tensor]:
        seen.setdefault(step, [tensor.clone() for module in self.state.modules.values() for tensor in module.buffers()])
        seen[step] += [parameter.detach().clone() for parameter in self.model.parameters()]
        losses = gradients(self, step, batch)
        if step == 1:
            losses["l1"] = losses["l1"] * float("nan")
            for parameter in self.model.encoder.parameters():
                parameter.grad = None if parameter.grad is None else parameter.grad * float("nan")
        return losses

    monkeypatch.setattr(TokenizerTask, "gradients", broken)
    params = tiny_params(stage1__log_every=6, stage1__checkpoint_every=6, stage1__validate_every=6)
    with pytest.raises(PrologueError, match=r"step 2: l1, gradient_norm_tokenizer not finite"):
        run_stages(params, shards, ["tokenizer"])
    assert sorted(seen) == [0, 1, 2, 3, 4, 5], "all steps up to the reading were computed"
    assert not all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=False))
    for step in range(2, 6):
        assert all(torch.equal(a, b) for a, b in zip(seen[1], seen[step], strict=False)), f"step {step} moved weights"
    assert not list(Path(".work/tokenizer").glob("*/step_*")), "nothing of it is kept"
