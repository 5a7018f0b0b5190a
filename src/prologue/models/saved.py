"""A finished model is a folder: model.safetensors and the config.json that rebuilds it without other knowledge."""

from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from prologue.core.errors import PrologueError
from prologue.core.files import IS_LFS_POINTER, is_lfs_pointer, replacing
from prologue.core.params import Section
from prologue.models.ar import ARConfig, ARModel
from prologue.models.config import TokenizerConfig
from prologue.models.tokenizer import Tokenizer

Model = TypeVar("Model", Tokenizer, ARModel)
Config = TypeVar("Config", bound=Section)


def save_model(folder: Path, model: Tokenizer | ARModel) -> None:
    """Write a model's weights and config to `folder`, which appears only when complete."""
    with replacing(folder) as temporary:
        temporary.mkdir()
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, temporary / "model.safetensors")
        (temporary / "config.json").write_text(model.config.model_dump_json(indent=2) + "\n")


def load_tokenizer(folder: Path, device: torch.device | str = "cpu") -> Tokenizer:
    """Load a tokenizer folder, in eval mode. Raises PrologueError for a folder that does not fit."""
    return _load_weights(folder, Tokenizer(_read_config(folder, TokenizerConfig))).to(device)


def load_ar(folder: Path, device: torch.device | str = "cpu") -> ARModel:
    """Load an AR model folder, in eval mode. Raises PrologueError for a folder that does not fit."""
    return _load_weights(folder, ARModel(_read_config(folder, ARConfig))).to(device)


def parameter_count(module: nn.Module) -> int:
    """Number of parameters, embeddings included."""
    return sum(parameter.numel() for parameter in module.parameters())


def _read_config(folder: Path, config: type[Config]) -> Config:
    path = folder / "config.json"
    if not path.is_file():
        raise PrologueError(f"{path} is missing: {folder} is no model folder; run `dvc repro`")
    try:
        return config.model_validate_json(path.read_text())
    except ValidationError as error:
        raise PrologueError(f"{path} does not describe a {config.__name__}: {error}") from None


def _load_weights(folder: Path, model: Model) -> Model:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise PrologueError(f"{path} is missing; run `dvc repro`")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        why = IS_LFS_POINTER if is_lfs_pointer(path) else f"it is damaged or cut: {error}"
        raise PrologueError(f"{path} cannot be read: {why}") from None
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise PrologueError(f"{path} does not fit {folder / 'config.json'}: {error}") from None
    return model.eval()
