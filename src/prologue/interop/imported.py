"""Where models come from that are not trained here, and whether they are what the params describe."""

import shlex
from pathlib import Path

from prologue.core.dotted import flat
from prologue.core.errors import PrologueError
from prologue.core.files import sha256
from prologue.core.params import Params
from prologue.interop import published
from prologue.interop.vq_model import is_vq_model, load_vq_model
from prologue.models import saved
from prologue.models.ar import ARModel
from prologue.models.config import VQModelSize
from prologue.models.tokenizer import Tokenizer


def load_imported_tokenizer(source: str, folder: Path, image_size: int, pixels: str) -> Tokenizer:
    """The tokenizer of a folder: published, one of our own, or a diffusers VQModel.

    Raises:
        PrologueError: the folder is wrong or partial; the message names what is missing or does not fit.
    """
    if source == "published":
        return published.load_tokenizer(folder)
    if source == "folder":
        return saved.load_tokenizer(folder)
    return load_vq_model(folder, image_size, pixels)


def load_imported_ar(source: str, folder: Path, tokenizer: Tokenizer) -> ARModel:
    """The AR model of a folder: published, or one of our own. Raises PrologueError as `load_imported_tokenizer`."""
    return published.load_ar(folder, tokenizer) if source == "published" else saved.load_ar(folder)


def import_params(folder: Path, image_size: int, pixels: str) -> dict[str, object]:
    """The overrides of params.yaml that import a folder, and describe what is in it, by dotted key.

    The AR model of a published folder is imported with its tokenizer. Raises PrologueError as the import does.
    """
    is_published = (folder / "tokenizer").is_dir()
    source = "vq_model" if is_vq_model(folder) else "published" if is_published else "folder"
    tokenizer = load_imported_tokenizer(source, folder, image_size, pixels)
    overrides = {"tokenizer.source": source, "tokenizer.path": str(folder)} | describe_tokenizer(tokenizer)
    if source == "published" and published.ar_file(folder, "raw").is_file():
        ar = load_imported_ar(source, folder, tokenizer)
        overrides |= {"ar.source": source, "ar.path": str(folder)} | describe_ar(ar)
    return overrides


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, object]:
    """What params.yaml would have to say for this tokenizer to be the one it describes, by dotted key."""
    config, size = tokenizer.config, tokenizer.config.tokenizer
    described: dict[str, object] = {"data.image_size": config.image_size}
    described |= {f"tokenizer.{key}": getattr(size, key) for key in ("layout", "patch", "code_dim", "codebook")}
    if isinstance(size, VQModelSize):
        described["tokenizer.pixels"] = size.pixels
    else:
        for name in ("encoder", "decoder"):
            described |= {f"tokenizer.{name}.{key}": value for key, value in getattr(size, name)}
    prologue = config.prologue
    if prologue is None:
        return described | {"prologue.mode": "none"}
    described |= {"prologue.tokens": prologue.tokens, "prologue.codebook": prologue.codebook}
    if prologue.encoder is None:
        return described | {"prologue.mode": "joint"}
    own = {f"prologue.post.{key}": value for key, value in prologue.encoder}
    return described | {"prologue.mode": "post"} | own


def describe_ar(ar: ARModel) -> dict[str, object]:
    """As `describe_tokenizer`, of the full-size AR model."""
    size = ar.config.transformer
    return {"ar.layers": size.layers, "ar.dim": size.dim}


def check_params(params: Params, described: dict[str, object], folder: Path) -> None:
    """Raise PrologueError naming every key of `described` that the params give another value."""
    values = flat(params.model_dump())
    differing = [
        f"{key} is {values[key]}, the checkpoint has {value}"
        for key, value in described.items()
        if values[key] != value
    ]
    if differing:
        raise PrologueError(
            f"{folder} is not the model that params.yaml describes:\n  " + "\n  ".join(differing) + "\n"
            f"""`eval "dvc exp run $(prologue import {shlex.quote(str(folder))})"` sets all of them"""
        )


def provenance(folder: Path) -> dict[str, str]:
    """Where an imported model came from: SHA-256 of each of the folder's weights files, for the metrics of a stage."""
    return {str(file): sha256(file) for file in sorted(folder.rglob("*.safetensors"))}
