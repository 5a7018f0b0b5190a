"""Which project's tokenizer a checkpoint holds, by the names of its tensors, and what is found in it in words."""

from pathlib import Path

from prologue.core.errors import PrologueError
from prologue.core.params import TokenizerSize
from prologue.interop.checkpoints import CONFIG, Checkpoint
from prologue.interop.vqgan import NOT_OF_THE_TOKENIZER
from prologue.models.config import MaskGITSize
from prologue.models.saved import parameter_count
from prologue.models.tokenizer import Tokenizer

MARKS = {  # a tensor that no other family has, by `tokenizer.source`
    "titok": "latent_tokens",
    "llamagen": "encoder.conv_blocks.0.res.0.norm1.weight",
    "taming": "encoder.mid.block_1.norm1.weight",
    "maskgit_vq": "encoder.mid.0.norm1.weight",
    "vq_model": "encoder.down_blocks.0.resnets.0.norm1.weight",
}
NAMES = {
    "published": "the authors' tokenizer",
    "folder": "a tokenizer of this project",
    "vq_model": "VQModel of diffusers",
    "llamagen": "LlamaGen VQ",
    "taming": "taming VQGAN",
    "maskgit_vq": "MaskGIT-VQ",
    "titok": "TiTok",
}
CODEBOOK = "quantize.embedding.weight"
SHOWN = 5  # names in an error


def recognise(found: Checkpoint) -> str:
    """The `tokenizer.source` of a checkpoint. Raises PrologueError for what is not read, a variant by its name."""
    source = next((source for source, mark in MARKS.items() if mark in found.tensors), None)
    variant = _variant(found)
    if source is None or variant:
        known = ", ".join(NAMES[source] for source in MARKS)
        first = ", ".join(sorted(found.tensors)[:SHOWN])
        raise PrologueError(
            f"{found.where} is {variant}, which is not read"
            if variant
            else f"{found.where} is no tokenizer that is known ({known}): it holds {first} ..."
        )
    return source


def _variant(found: Checkpoint) -> str | None:
    """What kind of model it is, of those that look like a known one and compute something else."""
    names, target = found.tensors.keys(), str(found.told("model", "target") or "")
    if target and target.rpartition(".")[2] != "VQModel":
        return f"a {target}"
    if any(name.startswith(("quantize.proj.", "quantize.embed.")) for name in names):
        return "a VQGAN with a Gumbel quantizer"
    if any(name.startswith("decoder.text_") for name in names):
        return "a TA-TiTok, whose decoder reads a text"
    if any(name.startswith("first_stage_model.") for name in names):
        return "a latent diffusion model with its autoencoder"
    if CODEBOOK in names or not any(mark in names for mark in MARKS.values()):
        return None
    quantizers = (name for name in names if name.startswith("quantize") and not NOT_OF_THE_TOKENIZER.fullmatch(name))
    other = sorted(quantizers)[:SHOWN]
    return f"a tokenizer of another quantizer ({', '.join(other)})" if other else "an autoencoder without a codebook"


def in_words(source: str, tokenizer: Tokenizer, files: tuple[Path, ...]) -> str:
    """What was found, in one line: family, sizes, codebook, tokens, pixels and whether a norm is on, and why.

    `files` made the tokenizer.
    """
    config, size = tokenizer.config, tokenizer.config.tokenizer
    millions = {name: parameter_count(getattr(tokenizer, name)) / 1e6 for name in ("encoder", "decoder")}
    tokens = f"{config.grid} x {config.grid}" if size.layout == "2d" else f"{config.visual_tokens} (1D)"
    words = [
        NAMES[source],
        ", ".join(f"{name} {count:.2f}M" for name, count in millions.items()),
        f"codebook {size.codebook} x {size.code_dim}",
        f"{tokens} tokens at {config.image_size} px",
    ]
    if not isinstance(size, TokenizerSize):
        norm = not isinstance(size, MaskGITSize) and size.l2_norm
        words.append(f"pixels {'-1..1' if size.pixels == 'signed' else '0..1'}")
        words.append(f"l2 norm {'on' if norm else 'off'} ({_why(source, files)})")
    return "; ".join(words)


def _why(source: str, files: tuple[Path, ...]) -> str:
    """Why the norm is thought to be on or off."""
    told = any(file.name == CONFIG for file in files)
    if source == "titok" or (source == "llamagen" and told):
        return "its config.json says so"
    return "no file tells; all of LlamaGen's have it" if source == "llamagen" else f"no {NAMES[source]} has it"
