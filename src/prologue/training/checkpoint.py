"""All training state in one named object, saved atomically and found again by the origin of the training.

A work directory `.work/STAGE/KEY/` holds `step_N/` checkpoints; `PROLOGUE_WORK` takes the place of `.work`. Work of
another origin is named, and gone on from where `PROLOGUE_RESUME` says so.

Every random draw of training is seeded by the step, so the step number stands for the state of every generator and for
the data position.
"""

import fcntl
import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from prologue.core.errors import PrologueError
from prologue.core.files import read_json, remove, replacing, sha256, write_json
from prologue.core.launch import is_main_process
from prologue.core.work import WORK, Origin, open_work, read_origin

FINISHED, ADOPTED = "finished", "adopted.json"
SHOWN = 8  # differences of two origins that are named
claimed: dict[Path, IO[str]] = {}  # work directories of this process, and the files whose locks it holds till it ends


@dataclass
class TrainingState:
    """What training changes, by name: modules (weights, EMA, running means) and optimizers."""

    modules: dict[str, nn.Module] = field(default_factory=dict)
    optimizers: dict[str, Optimizer] = field(default_factory=dict)

    def megabytes(self) -> dict[str, float]:
        """Memory of the weights, the EMA (modules named 'ema') and the optimizers, in 10^6 bytes."""
        sizes = {"weights": 0, "ema": 0, "optimizers": 0}
        for name, tensor in _module_tensors(self).items():
            sizes["ema" if name.startswith("ema/") else "weights"] += tensor.nbytes
        sizes["optimizers"] = sum(tensor.nbytes for tensor in _optimizer_tensors(self).values())
        return {name: round(size / 1e6, 1) for name, size in sizes.items()}


class Checkpoints:
    """The checkpoints of one training run of a stage.

    What other runs of the stage left goes when this one is created, if they finished; unfinished ones can go on later.

    Raises:
        PrologueError: `PROLOGUE_RESUME` names work of this stage that has no checkpoint.
    """

    def __init__(self, stage: str, origin: Origin, keep: int) -> None:
        self.stage, self.origin, self.keep = stage, origin, keep
        self.folder = WORK / stage / origin.key
        self.curves = self.folder / "curves"
        if is_main_process():
            _claim(self.folder)
            open_work(self.folder, origin)
            for marker in (WORK / stage).glob(f"*/{FINISHED}"):
                if marker.parent != self.folder:
                    remove(marker.parent)
            if not _steps(self.folder):
                self._begin()

    def _begin(self) -> None:
        """Adopt the work that `PROLOGUE_RESUME` names, if it is of this stage; else name what could be."""
        named = Path(os.environ.get("PROLOGUE_RESUME", ""))
        if named.parent.name == self.stage:
            self._adopt(named)
            return
        for other in sorted((WORK / self.stage).iterdir()):
            steps, origin = _steps(other), read_origin(other)
            if other != self.folder and steps and origin and not _is_claimed(other):
                differences = self.origin.differences(origin)
                rest = f"\n  and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
                print(
                    f"\n{other} holds unfinished work of this stage, {steps[-1]} steps, that was made otherwise:\n  "
                    + "\n  ".join(differences[:SHOWN])
                    + rest
                    + f"\nThis run starts anew. PROLOGUE_RESUME={other} goes on from it; `rm -r {other}` forgets it.",
                    file=sys.stderr,
                )

    def _adopt(self, other: Path) -> None:
        """Go on from the newest checkpoint of work of another origin, and note what differs."""
        steps, origin = _steps(other), read_origin(other)
        if not steps or origin is None:
            raise PrologueError(f"PROLOGUE_RESUME={other}: there is no checkpoint; `ls -d .work/{self.stage}/*/step_*`")
        with replacing(self._path(steps[-1])) as temporary:
            shutil.copytree(other / self._path(steps[-1]).name, temporary)
        record = {"work": other.name, "step": steps[-1], "differences": self.origin.differences(origin)}
        write_json(self.folder / ADOPTED, [*_adoptions(other), record])

    def adoptions(self) -> list[dict[str, Any]]:
        """From which work of another origin this one went on, at which step, and what differed."""
        return _adoptions(self.folder)

    def save(self, state: TrainingState, step: int) -> None:
        """Save the state after `step` steps, with the curves so far; keep the newest checkpoints only."""
        with replacing(self._path(step)) as temporary:
            temporary.mkdir(parents=True)
            save_file(_module_tensors(state), temporary / "modules.safetensors")
            save_file(_optimizer_tensors(state), temporary / "optimizers.safetensors")
            if self.curves.is_dir():
                shutil.copytree(self.curves, temporary / "curves")
            hashes = {path.name: sha256(path) for path in temporary.glob("*.safetensors")}
            (temporary / "checkpoint.json").write_text(json.dumps({"step": step, "sha256": hashes}))
        for old in _steps(self.folder)[: -self.keep]:
            remove(self._path(old))

    def resume(self, state: TrainingState) -> int:
        """Load the newest usable checkpoint into `state`; returns the number of steps done, 0 without one.

        A damaged checkpoint is reported and the one before it is used.

        Raises:
            PrologueError: an adopted checkpoint is of a network of other sizes.
        """
        for step in reversed(_steps(self.folder)):
            path = self._path(step)
            try:
                self._load(path, state)
            except RuntimeError as error:  # of an origin's own checkpoints all shapes fit
                if is_main_process():
                    remove(self.folder)
                raise PrologueError(f"PROLOGUE_RESUME: its checkpoint does not fit: {error}") from None
            except (PrologueError, SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
                if is_main_process():
                    print(f"checkpoint {path} is damaged and not used: {error}", file=sys.stderr)
                continue
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
        for old in _steps(self.folder)[:-1]:
            remove(self._path(old))

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}"

    @staticmethod
    def _load(path: Path, state: TrainingState) -> None:
        for name, digest in read_json(path / "checkpoint.json")["sha256"].items():
            if sha256(path / name) != digest:
                raise PrologueError(f"{name} does not match its hash")
        modules = load_file(path / "modules.safetensors")
        for name, module in state.modules.items():
            module.load_state_dict(_under(modules, name))
        _load_optimizers(state, load_file(path / "optimizers.safetensors"))


def _steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a work directory."""
    return sorted(int(path.name.removeprefix("step_")) for path in folder.glob("step_*"))


def _adoptions(folder: Path) -> list[dict[str, Any]]:
    path = folder / ADOPTED
    return list(read_json(path)) if path.is_file() else []


def _claim(folder: Path) -> None:
    """Wait until no other launch works in a directory: two experiments at once may share a tokenizer."""
    if folder.resolve() not in claimed:
        file = _lock(folder)
        fcntl.flock(file, fcntl.LOCK_EX)
        claimed[folder.resolve()] = file


def _is_claimed(folder: Path) -> bool:
    """Whether a launch works in a directory."""
    with _lock(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _lock(folder: Path) -> IO[str]:
    """The file beside a work directory whose lock is held by who works in it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder.with_suffix(".lock").open("w")


def _module_tensors(state: TrainingState) -> dict[str, Tensor]:
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
