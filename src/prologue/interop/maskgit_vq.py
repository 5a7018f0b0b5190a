"""MaskGIT-VQ as 1d-tokenizer saved it: its sizes, and which of its tensors makes each of ours."""

import re

from prologue.interop.checkpoints import Checkpoint, numbers, shape
from prologue.interop.tensors import Sources, plain
from prologue.models.config import MaskGITSize

UPSAMPLE = re.compile(r"upsample\.(\d+)")
LEVEL = re.compile(r"\b(down|up)\.(\d+)\.(\d+)")  # of our names: the level and its block


def maskgit_size(found: Checkpoint) -> MaskGITSize:
    """Sizes of a MaskGIT-VQ. Raises PrologueError naming a tensor without which they cannot be told."""
    codebook, code_dim = shape(found, "quantize.embedding.weight")
    return conv_size(found, "encoder.down", shape(found, "encoder.conv_in.weight")[0], code_dim, codebook)


def conv_size(found: Checkpoint, levels: str, hidden: int, code_dim: int, codebook: int) -> MaskGITSize:
    """Sizes of the encoder or the decoder whose levels have the prefix `levels`."""
    channels = [shape(found, f"{levels}.{level}.block.0.conv2.weight")[0] for level in numbers(found, levels)]
    blocks = len(numbers(found, f"{levels}.0.block"))
    return MaskGITSize(hidden=hidden, channels=channels, blocks=blocks, code_dim=code_dim, codebook=codebook)


def maskgit_sources(own: list[str]) -> Sources:
    """Which tensor of a MaskGIT-VQ makes each of ours."""
    sources: Sources = {}
    for name in own:
        theirs = name.replace("visual_quantizer.codebook", "quantize.embedding")
        theirs = theirs.replace("encoder.network.", "encoder.").replace("decoder.network.0.", "decoder.")
        sources |= plain(name, conv_name(theirs))
    return sources


def conv_name(name: str) -> str:
    """Their name of a tensor of the convolutional networks."""
    name = UPSAMPLE.sub(lambda match: f"up.{int(match[1]) + 1}.upsample_conv", name)
    return LEVEL.sub(r"\1.\2.block.\3", name)
