"""All training state in one named object, saved atomically and found again by a fingerprint of what made it.

A work directory `.work/STAGE/FINGERPRINT/` holds `step_N/` checkpoints; `PROLOGUE_WORK` takes the place of `.work`.
Every random draw of training is seeded by the step, so the step number stands for the state of every generator and for
the data position.
"""

import fcntl
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from prologue.errors import PrologueError
from prologue.files import read_json, remove, replacing, sha256
from prologue.launch import is_main_process
from prologue.runtime import WORK

FINISHED, LOCK = "finished", "lock"
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
    """The checkpoints of one training run; `stage` names the folder, `key` is its fingerprint.

    What other runs of the stage left goes when this one is created, if they finished; unfinished ones can go on later.
    """

    def __init__(self, stage: str, key: str, keep: int) -> None:
        self.stage, self.keep = stage, keep
        self.folder = WORK / stage / key
        self.curves = self.folder / "curves"
        if is_main_process():
            _claim(self.folder)
            for marker in (WORK / stage).glob(f"*/{FINISHED}"):
                if marker.parent != self.folder:
                    remove(marker.parent)

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
        for old in self._steps()[: -self.keep]:
            remove(self._path(old))

    def resume(self, state: TrainingState) -> int:
        """Load the newest usable checkpoint into `state`; returns the number of steps done, 0 without one.

        A damaged checkpoint is reported and the one before it is used.
        """
        for step in reversed(self._steps()):
            path = self._path(step)
            try:
                self._load(path, state)
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
        for old in self._steps()[:-1]:
            remove(self._path(old))

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}"

    def _steps(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step_")) for path in self.folder.glob("step_*"))

    @staticmethod
    def _load(path: Path, state: TrainingState) -> None:
        for name, digest in read_json(path / "checkpoint.json")["sha256"].items():
            if sha256(path / name) != digest:
                raise PrologueError(f"{name} does not match its hash")
        modules = load_file(path / "modules.safetensors")
        for name, module in state.modules.items():
            module.load_state_dict(_under(modules, name))
        _load_optimizers(state, load_file(path / "optimizers.safetensors"))


def _claim(folder: Path) -> None:
    """Wait until no other launch works in a directory: two experiments at once may share a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.resolve() not in claimed:
        file = (folder / LOCK).open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        claimed[folder.resolve()] = file


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
