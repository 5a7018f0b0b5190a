"""Other programs' weights with what lies beside them, read without running anything that a file holds."""

import json
import pickle
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from prologue.core.errors import PrologueError
from prologue.core.files import IS_LFS_POINTER, is_lfs_pointer, read_yaml

SAFE, PICKLED = (".safetensors",), (".pt", ".pth", ".bin", ".ckpt")
CONFIG = "config.json"
STANDARD = ("diffusion_pytorch_model.safetensors", "model.safetensors")  # what libraries load of a folder of several
SHOWN = 40  # characters of a file in a message


class LightningCallback:
    """Stands for a class whose name is a key of what PyTorch Lightning saves of its callbacks, and nothing else."""


CALLBACKS = ("model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping")
STAND_INS = [
    (LightningCallback, f"{package}.callbacks.{name}")
    for package in ("pytorch_lightning", "lightning.pytorch")
    for name in CALLBACKS
]


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of one model, fp32 and by their own names, the config beside them, and the files that held both."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    files: tuple[Path, ...]

    @property
    def where(self) -> str:
        """The weights file, for messages."""
        return str(self.files[0])

    def told(self, *keys: str) -> object:
        """What the config says at nested keys; None where it says nothing there."""
        value: object = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value


def read_checkpoint(path: Path) -> Checkpoint:
    """The model of a weights file, or of a folder that holds one at any depth.

    Raises:
        PrologueError: there is none, or several; a file is damaged, or holds what is no tensor and is not skipped.
    """
    weights = find_weights(path)
    config = find_config(weights, path)
    values = read_config(config) if config else {}
    tensors = {name: tensor.float() for name, tensor in read_state(weights).items()}
    return Checkpoint(tensors, values, (weights, config) if config else (weights,))


def find_weights(path: Path) -> Path:
    """The weights file that a path names or holds. Raises PrologueError where there is none or a choice."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise PrologueError(f"{path} not found: expected a file of weights, or a folder that holds one")
    for name in STANDARD:
        if (path / name).is_file():
            return path / name
    found = [file for file in sorted(path.rglob("*")) if file.suffix in SAFE + PICKLED and file.is_file()]
    found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not found:
        raise PrologueError(f"{path} holds no weights ({', '.join(SAFE + PICKLED)})")
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(path)) for file in found)
        raise PrologueError(f"{path} holds several files of weights; give one of them: {names}")
    return found[0]


def find_config(weights: Path, given: Path) -> Path | None:
    """The config of a weights file: config.json beside it, or what taming's programs write.

    That is in ../configs, where the weights are in a folder named as theirs is or in one of the given folder's.
    """
    folder, place = weights.parent, weights.parent.resolve()
    likely = [folder / CONFIG, weights.with_suffix(".yaml"), folder / "model.yaml"]
    if place.name in ("ckpts", "checkpoints") or (given.is_dir() and place != given.resolve()):
        likely += sorted((place.parent / "configs").glob("*.yaml"))
    for path in likely:
        if path.is_file() and (path.suffix == ".json" or "model" in read_config(path)):
            return path
    return None


def read_config(path: Path) -> dict[str, Any]:
    """The content of a config, JSON or YAML by its name. Raises PrologueError for what is none."""
    text = path.read_text(errors="replace")
    try:
        config = json.loads(text) if path.suffix == ".json" else read_yaml(path)
    except (ValueError, PrologueError):
        config = None
    if not isinstance(config, dict):
        begins = f"it begins with {text[:SHOWN]!r}" if text.strip() else "it is empty"
        raise PrologueError(f"{path} is no {path.suffix[1:].upper()} of a model: {begins}")
    return config


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, on the CPU; of a training program's, those of its model.

    Raises PrologueError for a file that is damaged, or holds anything that `weights_only` refuses.
    """
    try:
        if file.suffix in SAFE:
            return load_file(file)
        with torch.serialization.safe_globals(list(STAND_INS)):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused and not is_lfs_pointer(file):
            raise PrologueError(
                f"{file} holds {refused[1]} beside its tensors, which could run code and is not loaded: "
                "save its tensors alone, as safetensors"
            ) from None
        raise _damaged(file, "no weights that PyTorch saved") from None
    except (LookupError, ValueError, TypeError, AttributeError, struct.error):  # of bytes that are no pickle
        raise _damaged(file, "no weights that PyTorch saved") from None
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise _damaged(file, str(error).splitlines()[0] if str(error) else "it is cut off") from None
    return _model_of(content, file)


def _damaged(file: Path, why: str) -> PrologueError:
    kind = "safetensors file" if file.suffix in SAFE else "file of weights"
    return PrologueError(f"{file} is damaged or no {kind}: {IS_LFS_POINTER if is_lfs_pointer(file) else why}")


def _model_of(content: object, file: Path) -> dict[str, Tensor]:
    """The state dict in what a file holds: itself, or under `model` (LlamaGen) or `state_dict` (Lightning)."""
    for key in (None, "model", "state_dict"):
        state = content if key is None else content.get(key) if isinstance(content, dict) else None
        if isinstance(state, dict) and state and all(isinstance(value, Tensor) for value in state.values()):
            return dict(state)
    names = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
    raise PrologueError(f"{file} holds no tensors of a model: {names[:200]}")


def shape(found: Checkpoint, name: str) -> list[int]:
    """Shape of a tensor. Raises PrologueError where it is missing."""
    if name not in found.tensors:
        raise PrologueError(f"{found.where} cannot be used: tensors missing: {name}")
    return list(found.tensors[name].shape)


def numbers(found: Checkpoint, prefix: str) -> range:
    """The numbers that follow a prefix in the tensors' names: 0, 1, ..."""
    matches = [re.match(rf"{re.escape(prefix)}\.(\d+)\.", name) for name in found.tensors]
    return range(1 + max((int(match[1]) for match in matches if match), default=0))
