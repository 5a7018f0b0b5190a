"""All training state in one named object, saved atomically and found again by the origin of the training.

A work directory `.work/STAGE/KEY/` holds `step_N/` checkpoints; `PROLOGUE_WORK` takes the place of `.work`.

Every random draw of training is seeded by the step, so the step number stands for the state of every generator and for
the data position.
"""

import json
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from prologue.core.errors import PrologueError
from prologue.core.files import read_json, remove, replacing, sha256, write_json
from prologue.core.launch import is_main_process
from prologue.core.work import Origin, claim, open_work, work_root

FINISHED = "finished"  # in a work directory, after its outputs are written
NOTE, COUNTS = "checkpoint.json", "counts.safetensors"  # in a checkpoint
DAMAGE = (PrologueError, SafetensorError, OSError, KeyError, json.JSONDecodeError)


@dataclass
class TrainingState:
    """What training changes, by name: modules (weights, EMA, running means), optimizers, counts since a curve's point.

    Counts are int64 and those of all processes together.
    """

    modules: dict[str, nn.Module] = field(default_factory=dict)
    optimizers: dict[str, Optimizer] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)

    def megabytes(self) -> dict[str, float]:
        """Memory of the weights, the EMA (modules named 'ema') and the optimizers, in 10^6 bytes."""
        sizes = {"weights": 0, "ema": 0, "optimizers": 0}
        for name, module in self.modules.items():
            sizes["ema" if name == "ema" else "weights"] += sum(value.nbytes for value in module.state_dict().values())
        moments = (own for optimizer in self.optimizers.values() for own in optimizer.state.values())
        sizes["optimizers"] = sum(value.nbytes for own in moments for value in own.values())
        return {name: round(size / 1e6, 1) for name, size in sizes.items()}


class Checkpoints:
    """The checkpoints of one training run of a stage, which no other launch works on meanwhile."""

    def __init__(self, stage: str, origin: Origin, keep: int) -> None:
        self.stage, self.origin, self.keep = stage, origin, keep
        self.folder = work_root() / stage / origin.key
        self.curves = self.folder / "curves"
        self.adopted: list[dict[str, Any]] = []  # work of other origins that the state comes from, at which step
        self.recent: list[dict[str, float]] = []  # losses of the steps since the last point of the curves
        self.earlier = 0.0  # seconds of the sessions that this one goes on from, each to its last checkpoint
        created = time.monotonic()
        if is_main_process():
            claim(self.folder)
            open_work(self.folder, origin)
            for unfinished in self.folder.glob(".step_*.tmp"):  # of a run that was killed while it saved
                remove(unfinished)
        self.opened = time.monotonic()
        self.waited = self.opened - created  # for another launch of this work, whose seconds are `earlier` ones

    def save(self, state: TrainingState, step: int) -> None:
        """Save the state after `step` steps, with the curves so far; keep the newest checkpoints only."""
        with replacing(self._path(step)) as temporary:
            temporary.mkdir(parents=True)
            save_file(module_tensors(state), temporary / "modules.safetensors")
            save_file(_optimizer_tensors(state), temporary / "optimizers.safetensors")
            save_file({name: count.cpu() for name, count in state.counts.items()}, temporary / COUNTS)
            if self.curves.is_dir():
                shutil.copytree(self.curves, temporary / "curves")
            hashes = {path.name: sha256(path) for path in temporary.glob("*.safetensors")}
            seconds = self.earlier + time.monotonic() - self.opened
            note = {"step": step, "seconds": round(seconds, 1), "sha256": hashes, "adopted": self.adopted}
            write_json(temporary / NOTE, note | {"recent": self.recent})
        (self.folder / FINISHED).unlink(missing_ok=True)  # it was, and its last checkpoint is damaged
        kept = [done for done in steps_of(self.folder) if done <= step][-self.keep :]
        for other in set(steps_of(self.folder)) - set(kept):  # a later one is damaged
            remove(self._path(other))

    def resume(self, state: TrainingState) -> int:
        """Load the newest usable checkpoint into `state`; returns the number of steps done, 0 without one.

        A damaged checkpoint is reported and the one before it is used.
        """
        for step in reversed(steps_of(self.folder)):
            path = self._path(step)
            try:
                note = verify(path)
                self._load(path, state)
            except DAMAGE as error:
                if is_main_process():
                    report_damage(path, error)
                continue
            self.adopted = note["adopted"]
            self.earlier = note.get("seconds", 0.0)  # older notes have neither
            self.recent = note.get("recent", [])
            self._restore_curves(path)
            return step
        self._restore_curves(None)
        return 0

    def _restore_curves(self, checkpoint: Path | None) -> None:
        """Put the curves back to where the checkpoint left them."""
        if is_main_process():
            remove(self.curves)
            if checkpoint is not None:
                print(f"resuming from {checkpoint}")
                if (checkpoint / "curves").is_dir():
                    shutil.copytree(checkpoint / "curves", self.curves)

    def finish(self) -> None:
        """Note that the run's outputs are written; its last checkpoint stays, in case DVC loses them."""
        (self.folder / FINISHED).touch()
        for old in steps_of(self.folder)[:-1]:
            remove(self._path(old))

    def _path(self, step: int) -> Path:
        return checkpoint_path(self.folder, step)

    @staticmethod
    def _load(path: Path, state: TrainingState) -> None:
        modules = load_file(path / "modules.safetensors")
        for name, module in state.modules.items():
            module.load_state_dict(_under(modules, name))
        _load_optimizers(state, load_file(path / "optimizers.safetensors"))
        if (path / COUNTS).is_file():  # older checkpoints have none
            for name, count in load_file(path / COUNTS).items():
                state.counts[name].copy_(count)


def steps_of(folder: Path) -> list[int]:
    """Steps of the checkpoints in a work directory, in order."""
    return sorted(int(path.name.removeprefix("step_")) for path in folder.glob("step_*"))


def checkpoint_path(folder: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` steps in a work directory."""
    return folder / f"step_{step:08d}"


def verify(checkpoint: Path) -> dict[str, Any]:
    """The note of a checkpoint whose files are as they were written. Raises one of DAMAGE for any other."""
    note: dict[str, Any] = read_json(checkpoint / NOTE)
    for name, digest in note["sha256"].items():
        if sha256(checkpoint / name) != digest:
            raise PrologueError(f"{name} does not match its hash")
    return note


def report_damage(checkpoint: Path, error: Exception) -> None:
    """Say that a checkpoint is not used."""
    print(f"checkpoint {checkpoint} is damaged and not used: {error}", file=sys.stderr)


def module_tensors(state: TrainingState) -> dict[str, Tensor]:
    """Weights and buffers under module/name."""
    return {
        f"{name}/{key}": tensor.detach().cpu().contiguous()
        for name, module in state.modules.items()
        for key, tensor in module.state_dict().items()
    }


def _optimizer_tensors(state: TrainingState) -> dict[str, Tensor]:
    """Moments and step counts under optimizer/parameter/moment: names, never positions."""
    tensors = {}
    for name, optimizer in state.optimizers.items():
        for group in optimizer.param_groups:
            for parameter_name, parameter in zip(group["param_names"], group["params"], strict=True):
                for key, value in optimizer.state[parameter].items():
                    tensors[f"{name}/{parameter_name}/{key}"] = value.detach().cpu().contiguous()
    return tensors


def _load_optimizers(state: TrainingState, tensors: dict[str, Tensor]) -> None:
    for name, optimizer in state.optimizers.items():
        own = _under(tensors, name)
        for group in optimizer.param_groups:
            for parameter_name, parameter in zip(group["param_names"], group["params"], strict=True):
                moments = _under(own, parameter_name)
                optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in moments.items()}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{prefix}/"): value for key, value in tensors.items() if key.startswith(f"{prefix}/")}
