"""Where models come from that are not trained here, and whether they are what the params describe."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prologue.core.dotted import flat
from prologue.core.errors import PrologueError
from prologue.core.files import sha256
from prologue.core.params import Params, Pixels, TokenizerSize
from prologue.interop import published
from prologue.interop.checkpoints import CONFIG, Checkpoint, read_checkpoint, read_config
from prologue.interop.maskgit_vq import maskgit_size, maskgit_sources
from prologue.interop.recognised import recognise
from prologue.interop.tensors import Sources, check_fit, convert
from prologue.interop.titok import titok_size, titok_sources
from prologue.interop.vqgan import NOT_OF_THE_TOKENIZER, vqgan_size, vqgan_sources
from prologue.models import saved
from prologue.models.ar import ARModel
from prologue.models.config import ImportedSize, MaskGITSize, TiTokSize, TokenizerConfig, VQModelSize
from prologue.models.tokenizer import Tokenizer

USUAL_SIZE = 256  # px that the published tokenizers were trained at, where no file tells another
OWN_KEYS = {"image_size", "tokenizer"}  # of the config of a tokenizer of ours


@dataclass(frozen=True)
class Imported:
    """A tokenizer, its kind and place (as in `tokenizer.source` and `tokenizer.path`), and the files that make it."""

    source: str
    path: Path
    tokenizer: Tokenizer
    files: tuple[Path, ...]


def load_tokenizer(path: Path | str, image_size: int | None = None, pixels: Pixels = "signed") -> Tokenizer:
    """The tokenizer of a file or folder, whatever project it is of, fp32 and in eval mode. Stable: scripts may use it.

    It is a folder of ours, the authors' published one, a `VQModel` of diffusers, LlamaGen's VQ, taming's VQGAN,
    MaskGIT-VQ or TiTok, told apart by what is in it. On a GPU some of its ids are other ones unless TF32 is off, as it
    is in every stage: `torch.backends.cudnn.allow_tf32 = False`.

    Args:
        path: of the weights, or of a folder that holds them.
        image_size: px that a convolutional tokenizer is used at; None: what its config tells, else 256. It encodes and
            decodes any multiple of its patch.
        pixels: range of the images of a `VQModel`, which no file of diffusers tells; of all others it is known.

    Raises:
        PrologueError: it is none of these, damaged or partial, or of a variant that is not read; the message says why.
    """
    return import_tokenizer(Path(path), image_size, pixels).tokenizer


def import_tokenizer(path: Path, image_size: int | None, pixels: Pixels, vq_model_size: int | None = None) -> Imported:
    """As `load_tokenizer`, with where it came from; without an `image_size` a `VQModel` has `vq_model_size`."""
    path = own_folder(path)
    source = known_folder(path)
    if source == "published":
        return Imported(source, path, published.load_tokenizer(path), files_below(path))
    if source == "folder":
        return Imported(source, path, saved.load_tokenizer(path), files_below(path))
    found = read_checkpoint(path)
    source = source or recognise(found)
    if source == "vq_model":
        image_size = image_size or vq_model_size
    size, sources = describe_checkpoint(found, source, pixels)
    tokenizer = Tokenizer(
        TokenizerConfig(image_size=_image_size(size, image_size, found), tokenizer=size, prologue=None)
    )
    made = sources(list(tokenizer.state_dict()))
    check_fit(found.tensors, made, tokenizer, found.where, NOT_OF_THE_TOKENIZER)
    tokenizer.load_state_dict(convert(found.tensors, made))
    return Imported(source, path, tokenizer.eval(), found.files)


def own_folder(path: Path) -> Path:
    """The folder of a tokenizer of ours whose weights are given; every other path as it is."""
    config = path.parent / CONFIG
    is_own = path.name == "model.safetensors" and config.is_file() and read_config(config).keys() >= OWN_KEYS
    return path.parent if is_own else path


def known_folder(path: Path) -> str | None:
    """`published`, `folder` or `vq_model`, where the folder itself tells; None where its tensors have to.

    Raises PrologueError for a whole project or export, for a model of diffusers that is no `VQModel`, and for a config
    that cannot be read.
    """
    attached = path / "models" / "attached"
    if attached.is_dir():
        raise PrologueError(f"{path} is a whole project; give its tokenizer, {attached}")
    if (path / "model_index.json").is_file():
        inner = ", ".join(sorted(config.parent.name for config in path.glob(f"*/{CONFIG}")))
        raise PrologueError(f"{path} is a whole pipeline; give the folder of its VQModel: {inner}")
    if (path / "tokenizer").is_dir():
        if (path / CONFIG).is_file() and read_config(path / CONFIG).get("format") == "prologue":
            raise PrologueError(f"{path} is a whole export; give its {path / 'tokenizer'}")
        return "published"
    if not (path / CONFIG).is_file():
        return None
    config = read_config(path / CONFIG)
    if config.keys() >= OWN_KEYS:
        return "folder"
    name = config.get("_class_name")
    if name not in (None, "VQModel"):
        raise PrologueError(f"{path} holds a model of class {name}; of diffusers' models VQModel is read")
    return "vq_model" if name else None


def describe_checkpoint(
    found: Checkpoint, source: str, pixels: Pixels
) -> tuple[ImportedSize, Callable[[list[str]], Sources]]:
    """Sizes of a checkpoint of a source, and what makes each of our tensors, given their names."""
    if source == "maskgit_vq":
        return maskgit_size(found), maskgit_sources
    if source == "titok":
        size = titok_size(found)
        return size, lambda own: titok_sources(own, size)
    return vqgan_size(found, source, pixels), lambda own: vqgan_sources(own, found, source)


def _image_size(size: ImportedSize, wanted: int | None, found: Checkpoint) -> int:
    """px of a tokenizer's images. Raises PrologueError where it cannot have those that are wanted."""
    if isinstance(size, TiTokSize):
        if wanted not in (None, size.image_size):
            raise PrologueError(f"{found.where} reads images of {size.image_size} px alone, not of {wanted}")
        return size.image_size
    told = found.told("model", "params", "ddconfig", "resolution")  # of taming's training
    image_size = wanted or (told if isinstance(told, int) else USUAL_SIZE)
    if image_size % size.patch:
        raise PrologueError(f"data.image_size {image_size} is no multiple of {found.where}'s patch of {size.patch} px")
    return image_size


def load_imported_tokenizer(source: str, path: Path, image_size: int, pixels: Pixels) -> Imported:
    """As `import_tokenizer`, of the kind that params.yaml names. Raises PrologueError where it is another."""
    found = import_tokenizer(path, None if source == "titok" else image_size, pixels)
    if found.source != source:
        raise PrologueError(f"{path} is of tokenizer.source {found.source}, not {source}")
    return found


def load_imported_ar(source: str, folder: Path, tokenizer: Tokenizer) -> ARModel:
    """The AR model of a folder: published, or one of our own. Raises PrologueError as `load_tokenizer`."""
    return published.load_ar(folder, tokenizer) if source == "published" else saved.load_ar(folder)


def import_params(found: Imported) -> dict[str, object]:
    """The overrides of params.yaml that import a tokenizer, and describe it, by dotted key.

    The AR model of a published folder is imported with its tokenizer. Raises PrologueError as the import does.
    """
    overrides = {"tokenizer.source": found.source, "tokenizer.path": str(found.path)} | describe_tokenizer(
        found.tokenizer
    )
    if found.source == "published" and published.ar_file(found.path, "raw").is_file():
        ar = load_imported_ar(found.source, found.path, found.tokenizer)
        overrides |= {"ar.source": found.source, "ar.path": str(found.path)} | describe_ar(ar)
    return overrides


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, object]:
    """What params.yaml would have to say for this tokenizer to be the one it describes, by dotted key."""
    config, size = tokenizer.config, tokenizer.config.tokenizer
    described: dict[str, object] = {"data.image_size": config.image_size}
    described |= {f"tokenizer.{key}": getattr(size, key) for key in ("layout", "patch", "code_dim", "codebook")}
    described["tokenizer.tokens"] = None if isinstance(size, VQModelSize | MaskGITSize) else size.tokens
    if isinstance(size, TokenizerSize):
        for name in ("encoder", "decoder"):
            described |= {f"tokenizer.{name}.{key}": value for key, value in getattr(size, name)}
    else:
        described["tokenizer.pixels"] = size.pixels
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


def files_below(folder: Path) -> tuple[Path, ...]:
    """The weights and configs of a folder of ours or of the authors'."""
    return tuple(sorted(file for file in folder.rglob("*") if file.suffix in (".safetensors", ".json")))


def provenance(files: tuple[Path, ...]) -> dict[str, str]:
    """Where an imported model came from: SHA-256 of each file that makes it, for the metrics of a stage."""
    return {str(file): sha256(file) for file in files}
