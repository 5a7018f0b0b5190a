"""The VQGAN of taming-transformers under three sets of names: taming's, LlamaGen's and diffusers'."""

import re
from typing import Any

from prologue.core.errors import PrologueError
from prologue.core.params import Pixels
from prologue.interop.checkpoints import Checkpoint, numbers, shape
from prologue.interop.tensors import Sources, as_linear, plain
from prologue.models.config import VQModelSize

OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # before diffusers 0.18
SHARED = {  # parts of diffusers' names, and of the names that taming and LlamaGen share
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
}
LLAMAGEN = SHARED | {
    "down_blocks": "conv_blocks",
    "up_blocks": "conv_blocks",
    "mid_block.resnets.0": "mid.0",
    "mid_block.attentions.0": "mid.1",
    "mid_block.resnets.1": "mid.2",
    "resnets": "res",
    "attentions": "attn",
}
TAMING = SHARED | {
    "down_blocks": "down",
    "up_blocks": "up",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.1": "mid.block_2",
    "resnets": "block",
    "attentions": "attn",
}
TABLES: dict[str, dict[str, str]] = {"llamagen": LLAMAGEN, "taming": TAMING, "vq_model": {}}
PREFIXES = {  # of our names, and of the names of all three
    "encoder.network.": "encoder.",
    "visual_quantizer.projection.": "quant_conv.",
    "visual_quantizer.codebook.": "quantize.embedding.",
    "decoder.projection.": "post_quant_conv.",
    "decoder.network.": "decoder.",
}
NOT_OF_THE_TOKENIZER = re.compile(r"loss\..*|quantize\.codebook_used")  # taming's training, a statistic of LlamaGen's
GROUPS = 32  # of taming's and LlamaGen's norms


def vqgan_size(found: Checkpoint, family: str, pixels: Pixels) -> VQModelSize:
    """Sizes of a VQGAN of one of `TABLES`: from the config of diffusers where it is there, else from the tensors.

    Raises PrologueError for a model whose sizes cannot be told.
    """
    if family == "vq_model" and "block_out_channels" in found.config:
        return VQModelSize(pixels=pixels, vq_model=found.config)
    if family == "vq_model":
        raise PrologueError(
            f"{found.where} has no config.json of a VQModel beside it, which alone tells the groups of its norms: "
            "give the folder that holds both"
        )
    names = Names(found, family)
    codebook, code_dim = names.shape("quantize.embedding.weight")
    levels = names.count("encoder.down_blocks")
    attends = {
        part: [f"{part}_blocks.{level}.attentions.0.to_q.weight" for level in range(levels)] for part in ("down", "up")
    }
    config: dict[str, Any] = {
        "in_channels": names.shape("encoder.conv_in.weight")[1],
        "out_channels": names.shape("decoder.conv_out.weight")[0],
        "block_out_channels": [
            names.shape(f"encoder.down_blocks.{level}.resnets.0.conv1.weight")[0] for level in range(levels)
        ],
        "down_block_types": [
            "AttnDownEncoderBlock2D" if names.has(f"encoder.{name}") else "DownEncoderBlock2D"
            for name in attends["down"]
        ],
        "up_block_types": [
            "AttnUpDecoderBlock2D" if names.has(f"decoder.{name}") else "UpDecoderBlock2D" for name in attends["up"]
        ],
        "layers_per_block": names.count("encoder.down_blocks.0.resnets"),
        "latent_channels": names.shape("encoder.conv_out.weight")[0],
        "vq_embed_dim": code_dim,
        "num_vq_embeddings": codebook,
        "norm_num_groups": GROUPS,
        "mid_block_add_attention": names.has("encoder.mid_block.attentions.0.to_q.weight"),
    }
    # LlamaGen's hub folders tell it; the files that people download do not, and all of them have the norm
    l2_norm = family == "llamagen" and bool(found.config.get("codebook_l2_norm", True))
    return VQModelSize(pixels=pixels if family == "vq_model" else "signed", l2_norm=l2_norm, vq_model=config)


def vqgan_sources(own: list[str], found: Checkpoint, family: str) -> Sources:
    """Which of a family's tensors makes each of ours, by our name; 1 x 1 convolutions become linear layers."""
    names = Names(found, family)
    sources: Sources = {}
    for name in own:
        prefix = next(prefix for prefix in PREFIXES if name.startswith(prefix))
        theirs = names.theirs(PREFIXES[prefix] + name.removeprefix(prefix))
        flat = ".projection." in name or ".attentions." in name
        sources |= as_linear(name, theirs) if flat else plain(name, theirs)
    return sources


class Names:
    """A family's tensors by diffusers' names."""

    def __init__(self, found: Checkpoint, family: str) -> None:
        self.found, self.family, self.table = found, family, TABLES[family]
        self.levels = len(numbers(found, "decoder.up"))

    def theirs(self, name: str) -> str:
        """The name that the family gives a tensor of diffusers' name."""
        if self.family == "taming":  # counts the decoder's levels from the finest
            name = re.sub(r"up_blocks\.(\d+)", lambda match: f"up_blocks.{self.levels - 1 - int(match[1])}", name)
        for part, other in self.table.items():
            name = re.sub(rf"(^|\.){re.escape(part)}\.", rf"\g<1>{other}.", name)
        if self.family == "vq_model" and name not in self.found.tensors:
            for new, old in OLD_ATTENTION.items():
                name = re.sub(rf"(\.attentions\.\d+)\.{re.escape(new)}\.", rf"\g<1>.{old}.", name)
        return name

    def has(self, name: str) -> bool:
        """Whether there is a tensor of diffusers' name."""
        return self.theirs(name) in self.found.tensors

    def shape(self, name: str) -> list[int]:
        """Shape of a tensor of diffusers' name. Raises PrologueError where it is missing."""
        return shape(self.found, self.theirs(name))

    def count(self, prefix: str) -> int:
        """How many numbers follow a prefix of diffusers' names."""
        return len(numbers(self.found, self.theirs(f"{prefix}.").removesuffix(".")))
