"""What a published folder holds, in the words of params.yaml, and whether the params say the same."""

from pathlib import Path
from typing import Any

from prologue.errors import PrologueError
from prologue.files import sha256
from prologue.interop.published import ar_file, load_ar, load_tokenizer
from prologue.models.ar import ARModel
from prologue.models.tokenizer import Tokenizer
from prologue.params import Params


def published_params(folder: Path) -> dict[str, object]:
    """The overrides of params.yaml that import a published folder and describe what is in it.

    Without an AR model in the folder, only its tokenizer is imported. Raises PrologueError as the import does.
    """
    tokenizer = load_tokenizer(folder)
    overrides = {"tokenizer.source": "published", "tokenizer.path": str(folder)} | describe_tokenizer(tokenizer)
    if ar_file(folder, "raw").is_file():
        ar = load_ar(folder, tokenizer)
        overrides |= {"ar.source": "published", "ar.path": str(folder)} | describe_ar(ar)
    return overrides


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, object]:
    """What params.yaml would have to say for this tokenizer to be the one it describes, by dotted key."""
    config = tokenizer.config
    size = config.tokenizer.model_dump(exclude={"commitment", "encoder", "decoder"})
    described: dict[str, object] = {"data.image_size": config.image_size}
    described |= {f"tokenizer.{key}": value for key, value in size.items()}
    for name in ("encoder", "decoder"):
        described |= {f"tokenizer.{name}.{key}": value for key, value in getattr(config.tokenizer, name)}
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
    values = params.model_dump()
    differing = []
    for key, value in described.items():
        own: Any = values
        for part in key.split("."):
            own = own[part]
        if own != value:
            differing.append(f"{key} is {own}, the checkpoint has {value}")
    if differing:
        raise PrologueError(
            f"{folder} is not the model that params.yaml describes:\n  " + "\n  ".join(differing) + "\n"
            f"`dvc exp run $(prologue published {folder})` sets all of them"
        )


def provenance(files: list[Path]) -> dict[str, str]:
    """Where a model came from: SHA-256 of each file, for the metrics of a stage."""
    return {str(file): sha256(file) for file in files}
