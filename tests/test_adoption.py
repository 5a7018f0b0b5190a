"""`PROLOGUE_RESUME`: a training goes on from other work only where that fits, and nothing is lost by asking."""

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
import torch
from torch import nn

from prologue.core import work
from prologue.core.errors import PrologueError
from prologue.core.files import read_json, write_json
from prologue.core.work import Origin
from prologue.training.adoption import adopt
from prologue.training.checkpoint import Checkpoints, TrainingState, steps_of

STEPS = 10
Ask = Callable[[Path | str], None]


def network(width: int = 3) -> TrainingState:
    """A network and its optimizer, after one step."""
    torch.manual_seed(0)
    module = nn.Linear(width, 2)
    optimizer = torch.optim.AdamW(list(module.named_parameters()))
    module(torch.ones(1, width)).sum().backward()
    optimizer.step()
    return TrainingState({"model": module}, {"adamw": optimizer})


class Run:
    """A training of some learning rate, in a process of its own."""

    def __init__(self, lr: float, stage: str = "tokenizer") -> None:
        work.claimed.clear()  # the process before this one ended
        self.checkpoints = Checkpoints(stage, Origin({"lr": lr}, {}, {}), keep=2)
        self.folder = self.checkpoints.folder

    def train(self, *steps: int, state: TrainingState | None = None) -> "Run":
        for step in steps:
            self.checkpoints.save(state or network(), step)
        return self

    def begin(self, state: TrainingState | None = None) -> int:
        adopt(self.checkpoints, state or network(), STEPS)
        return self.checkpoints.resume(network())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROLOGUE_RESUME", raising=False)
    monkeypatch.delenv("PROLOGUE_WORK", raising=False)
    return tmp_path


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Ask:
    return lambda path: monkeypatch.setenv("PROLOGUE_RESUME", str(path))


def test_a_checkpoint_of_before_its_seconds_were_noted_is_gone_on_from(ask: Ask) -> None:
    other = Run(1.0).train(2)
    note = other.folder / "step_00000002" / "checkpoint.json"
    told = read_json(note)
    del told["seconds"]
    write_json(note, told)
    ask(other.folder)
    run = Run(2.0)
    assert run.begin() == 2
    assert run.checkpoints.earlier == 0
    assert Run(2.0).begin() == 2


def test_a_run_that_adopted_and_was_stopped_goes_on_from_its_own_steps(ask: Ask) -> None:
    other = Run(1.0).train(2, 4)
    ask(other.folder)
    run = Run(2.0)
    assert run.begin() == 4
    run.train(5)
    again = Run(2.0)
    assert again.begin() == 5
    (record,) = again.checkpoints.adopted
    assert record == {"work": other.folder.name, "step": 4, "differences": ["param lr: 1.0 there, 2.0 here"]}
    third = Run(3.0)
    ask(run.folder / "step_00000004")  # not the newest; and it came from other work itself
    assert third.begin() == 4
    assert [record["work"] for record in third.checkpoints.adopted] == [other.folder.name, run.folder.name]


def test_work_of_a_finished_run_is_adopted_and_stays(ask: Ask) -> None:
    other, third = Run(1.0).train(STEPS), Run(3.0).train(STEPS)
    for finished in (other, third):
        finished.checkpoints.finish()
    ask(other.folder.resolve())
    assert Run(2.0).begin() == STEPS
    assert other.folder.is_dir()
    assert not third.folder.exists()  # a finished run that nothing asks for


@pytest.mark.parametrize(
    ("named", "complaint"),
    [
        ("{other}", r"this run has work of its own, 1 checkpoints in .*; unset PROLOGUE_RESUME .* or `rm -r "),
        (".work/tokenizer/0123", r"PROLOGUE_RESUME=.*0123: there is no checkpoint; `ls -d .work/\*/\*/step_\*`"),
        (".work/tokeniser/0123", "there is no checkpoint"),
        (".work", "there is no checkpoint"),
    ],
)
def test_what_cannot_be_adopted_is_refused_and_nothing_is_removed(
    named: str,
    complaint: str,
    ask: Ask,
) -> None:
    other, own = Run(1.0).train(3), Run(2.0).train(2)
    ask(named.format(other=other.folder))
    with pytest.raises(PrologueError, match=complaint):
        Run(2.0).begin()
    assert len(list(Path(".work").glob("tokenizer/*/step_*"))) == 2
    assert own.folder.is_dir()


def test_work_of_other_sizes_or_of_more_steps_is_refused(ask: Ask) -> None:
    ask(Run(1.0).train(3, state=network(width=4)).folder)
    with pytest.raises(PrologueError, match=r"model/weight is \[2, 4\] there, \[2, 3\] here"):
        Run(2.0).begin()
    ask(Run(3.0).train(STEPS + 1).folder)
    with pytest.raises(PrologueError, match="it has done 11 steps, this run has 10"):
        Run(2.0).begin()
    renamed = network()
    renamed.optimizers = {"muon": renamed.optimizers["adamw"]}
    ask(Run(4.0).train(3, state=renamed).folder)
    with pytest.raises(PrologueError, match="one optimizer alone has adamw/bias"):
        Run(2.0).begin()


def test_another_stage_is_not_asked(ask: Ask) -> None:
    ask(Run(1.0, stage="ar").train(3).folder)
    assert Run(2.0).begin() == 0


def test_a_damaged_checkpoint_is_not_adopted(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    other = Run(1.0).train(2, 4)
    (other.folder / "step_00000004" / "modules.safetensors").write_bytes(b"cut")
    ask(other.folder)
    run = Run(2.0)
    assert run.begin() == 2
    assert "step_00000004 is damaged and not used" in capsys.readouterr().err
    assert read_json(run.folder / "step_00000002" / "checkpoint.json")["adopted"][0]["step"] == 2


def test_what_is_saved_after_a_damaged_checkpoint_is_kept() -> None:
    run = Run(1.0).train(2, 4, 6)
    for step in (4, 6):
        (run.folder / f"step_{step:08d}" / "modules.safetensors").write_bytes(b"cut")
    again = Run(1.0)
    assert again.begin() == 0
    again.train(1, 3)
    assert Run(1.0).begin() == 3
    assert steps_of(run.folder) == [1, 3]


def test_work_that_a_run_works_on_is_waited_for_aloud(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def busy(file: IO[str], operation: int) -> None:
        asked.append(operation)
        if operation & fcntl.LOCK_NB:
            raise BlockingIOError

    asked: list[int] = []
    monkeypatch.setattr(fcntl, "flock", busy)
    folder = Run(1.0).folder
    assert asked == [fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_EX]
    assert f"another run works in {folder}" in capsys.readouterr().err


def test_work_that_a_run_works_on_is_left_to_it(ask: Ask) -> None:
    other = Run(1.0).train(2)
    ask(other.folder)
    locks = dict(work.claimed)  # still running
    with pytest.raises(PrologueError, match="a run works on it"):
        Run(2.0).begin()
    assert locks


def test_unfinished_work_of_other_origins_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    other = Run(1.0).train(2)
    assert Run(2.0).begin() == 0
    assert f"{other.folder} holds unfinished work of this stage, 2 steps" in capsys.readouterr().err
    other.checkpoints.finish()
    assert Run(4.0).begin() == 0
    assert "holds unfinished work" not in capsys.readouterr().err
