"""Tokenizers of another project: a folder that diffusers saved of its `VQModel`."""

import json
from pathlib import Path
from typing import Any

from prologue.core.errors import PrologueError
from prologue.interop.tensors import Sources, check_fit, convert, plain, read_tensors
from prologue.models.config import TokenizerConfig, VQModelSize
from prologue.models.tokenizer import Tokenizer

OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # before diffusers 0.18
PIPELINE = "model_index.json"
SHOWN = 40  # characters of a file in a message
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
PREFIXES = {  # of our names and of the library's
    "encoder.network.": "encoder.",
    "visual_quantizer.quant_conv.": "quant_conv.",
    "visual_quantizer.codebook.": "quantize.embedding.",
    "decoder.post_quant_conv.": "post_quant_conv.",
    "decoder.network.": "decoder.",
}


def is_vq_model(folder: Path) -> bool:
    """Whether a folder says that it holds a `VQModel`.

    Raises:
        PrologueError: it holds another model of diffusers, a pipeline, or a config.json that cannot be read.
    """
    if not (folder / CONFIG).is_file():
        inner = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
        if (folder / PIPELINE).is_file():
            raise PrologueError(f"{folder} is a whole pipeline; give the folder of its VQModel: {', '.join(inner)}")
        return False
    name = _read_config(folder / CONFIG).get("_class_name")
    if name not in (None, "VQModel"):
        raise PrologueError(f"{folder} holds a model of class {name}; of diffusers' models VQModel is read")
    return name == "VQModel"


def _read_config(path: Path) -> dict[str, Any]:
    """The content of a config.json. Raises PrologueError for what is none."""
    text = path.read_text(errors="replace")
    try:
        config = json.loads(text)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        begins = f"it begins with {text[:SHOWN]!r}" if text.strip() else "it is empty"
        raise PrologueError(f"{path} is no JSON of a model: {begins}")
    return config


def _renamed(name: str) -> str:
    """The name that the library gives a tensor today."""
    before, attention, rest = name.partition(".attentions.")
    for old, new in OLD_ATTENTION.items():
        rest = rest.replace(f".{old}.", f".{new}.")
    return before + attention + rest


def load_vq_model(folder: Path, image_size: int, pixels: str) -> Tokenizer:
    """The visual tokenizer of a folder, fp32, in eval mode.

    Args:
        folder: as `VQModel.save_pretrained` wrote it, with safetensors.
        image_size: px; a convolutional model takes any multiple of its patch.
        pixels: range of its images, signed or unit; no file tells it.

    Raises:
        PrologueError: the folder holds something else, is partial or damaged, or diffusers is not installed.
    """
    if not is_vq_model(folder):
        raise PrologueError(f"{folder / CONFIG} does not describe a diffusers VQModel")
    size = VQModelSize.model_validate({"pixels": pixels, "vq_model": _read_config(folder / CONFIG)})
    if image_size % size.patch:
        raise PrologueError(f"data.image_size {image_size} is no multiple of {folder}'s patch of {size.patch} px")
    tokenizer = Tokenizer(TokenizerConfig(image_size=image_size, tokenizer=size, prologue=None))
    sources: Sources = {}
    for own, theirs in PREFIXES.items():
        for name in tokenizer.state_dict():
            if name.startswith(own):
                sources |= plain(name, theirs + name.removeprefix(own))
    tensors = {_renamed(name): tensor for name, tensor in read_tensors([folder / WEIGHTS]).items()}
    check_fit(tensors, sources, tokenizer, str(folder / WEIGHTS))
    tokenizer.load_state_dict(convert(tensors, sources))
    return tokenizer.eval()
