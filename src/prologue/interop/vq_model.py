"""Tokenizers of another project: a folder that diffusers saved of its `VQModel`."""

import json
from pathlib import Path

from prologue.core.errors import PrologueError
from prologue.interop.tensors import Sources, check_fit, convert, plain, read_tensors
from prologue.models.config import TokenizerConfig, VQModelSize
from prologue.models.tokenizer import Tokenizer

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
PREFIXES = {  # of our names and of the library's
    "encoder.network.": "encoder.",
    "visual_quantizer.quant_conv.": "quant_conv.",
    "visual_quantizer.codebook.": "quantize.embedding.",
    "decoder.post_quant_conv.": "post_quant_conv.",
    "decoder.network.": "decoder.",
}


def is_vq_model(folder: Path) -> bool:
    """Whether a folder says that it holds a `VQModel`."""
    path = folder / CONFIG
    return path.is_file() and json.loads(path.read_text()).get("_class_name") == "VQModel"


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
    size = VQModelSize.model_validate({"pixels": pixels, "vq_model": json.loads((folder / CONFIG).read_text())})
    if image_size % size.patch:
        raise PrologueError(f"data.image_size {image_size} is no multiple of {folder}'s patch of {size.patch} px")
    tokenizer = Tokenizer(TokenizerConfig(image_size=image_size, tokenizer=size, prologue=None))
    sources: Sources = {}
    for own, theirs in PREFIXES.items():
        for name in tokenizer.state_dict():
            if name.startswith(own):
                sources |= plain(name, theirs + name.removeprefix(own))
    tensors = read_tensors([folder / WEIGHTS])
    check_fit(tensors, sources, tokenizer, str(folder / WEIGHTS))
    tokenizer.load_state_dict(convert(tensors, sources))
    return tokenizer.eval()
