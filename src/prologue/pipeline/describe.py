"""What a set of params builds: parts, parameters, FLOPs per image, tokens and bits per pixel, without building it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from prologue.core.params import Params, TokenizerSize, TransformerParams
from prologue.core.systems import trains_stage2
from prologue.models.ar import ARConfig, ARModel
from prologue.models.discriminator import Discriminator
from prologue.models.saved import parameter_count
from prologue.models.tokenizer import Tokenizer
from prologue.models.vocabulary import Vocabulary
from prologue.training.attach import with_prologue
from prologue.training.plan import plan_attach, plan_tokenizer
from prologue.training.tokenizer import tokenizer_config

# What the paper calls its sizes (Tab. A4, with XL's misprint mended); our counts include embeddings and codebooks.
PAPER_LABELS = {
    ("encoder", 12, 768): "86M",
    ("decoder", 12, 768): "86M",
    ("decoder", 24, 1024): "305M",
    ("compact AR", 7, 512): "40M",
    ("AR", 12, 768): "115M",
    ("AR", 24, 1024): "305M",
    ("AR", 32, 1280): "685M",
}


@dataclass(frozen=True)
class Part:
    """A network of a system: parameters, and FLOPs (two per multiply-add) of one forward pass of one image."""

    name: str
    size: TransformerParams | None
    parameters: int
    flops: int

    @property
    def paper(self) -> str:
        """What the paper calls this size; empty where it names none."""
        return PAPER_LABELS.get((self.name, self.size.layers, self.size.dim), "") if self.size else ""


@dataclass(frozen=True)
class Description:
    """All parts of a system and what an image becomes."""

    parts: list[Part]
    vocabulary: Vocabulary
    bits_per_pixel: float


def describe(params: Params, classes: int) -> Description:
    """Describe the system that the params describe, for a dataset of `classes` classes; allocates no weights."""
    with FakeTensorMode():
        plan, attach = plan_tokenizer(params), plan_attach(params)
        tokenizer = Tokenizer(tokenizer_config(plan))
        if attach is not None:
            tokenizer = with_prologue(tokenizer, attach.prologue)
        joint_ar = (attach or plan).joint_ar
        vocabulary = tokenizer.vocabulary(classes)
        image = torch.zeros(1, 3, params.data.image_size, params.data.image_size)
        parts = _tokenizer_parts(tokenizer, image)
        if params.stage1.adversarial:
            discriminator = Discriminator(params.stage1.discriminator)
            flops = _flops(discriminator, image)["Discriminator"]
            parts.append(Part("discriminator", None, parameter_count(discriminator), flops))
        if joint_ar is not None and trains_stage2(params):
            parts.append(_ar_part("compact AR", vocabulary, joint_ar.transformer))
        parts.append(_ar_part("AR", vocabulary, TransformerParams(layers=params.ar.layers, dim=params.ar.dim)))
    return Description(parts, vocabulary, bits_per_pixel(vocabulary, params.data.image_size))


def bits_per_pixel(vocabulary: Vocabulary, image_size: int) -> float:
    """Bits of an image's prologue and visual ids per pixel (Tab. A2)."""
    bits = vocabulary.visual_tokens * math.log2(vocabulary.visual_codebook)
    if vocabulary.prologue_tokens:
        bits += vocabulary.prologue_tokens * math.log2(vocabulary.prologue_codebook)
    return bits / image_size**2


def _tokenizer_parts(tokenizer: Tokenizer, image: Tensor) -> list[Part]:
    """Encoder and decoder with their quantizers, and Prologue-Post's own encoder with its."""
    sizes = tokenizer.config.tokenizer
    assert isinstance(sizes, TokenizerSize)
    members = {"encoder": ["encoder", "visual_quantizer"], "decoder": ["decoder"]}
    size = {"encoder": sizes.encoder, "decoder": sizes.decoder}
    if tokenizer.config.prologue and tokenizer.config.prologue.encoder:
        members["prologue encoder"] = ["prologue_encoder", "prologue_quantizer"]
        size["prologue encoder"] = tokenizer.config.prologue.encoder
    elif tokenizer.config.prologue:
        members["encoder"].append("prologue_quantizer")
    flops = _flops(tokenizer, image.to(torch.uint8))
    return [
        Part(
            part,
            size[part],
            sum(parameter_count(tokenizer.get_submodule(name)) for name in names),
            sum(flops[f"Tokenizer.{name}"] for name in names),
        )
        for part, names in members.items()
    ]


def _ar_part(name: str, vocabulary: Vocabulary, size: TransformerParams) -> Part:
    ar = ARModel(ARConfig(vocabulary=vocabulary, transformer=size))
    prologue = torch.zeros(1, vocabulary.prologue_tokens, dtype=torch.long) if vocabulary.prologue_tokens else None
    visual = torch.zeros(1, vocabulary.visual_tokens, dtype=torch.long)
    flops = _flops(ar, prologue, visual, torch.zeros(1, dtype=torch.long))["ARModel"]
    return Part(name, size, parameter_count(ar), flops)


def _flops(module: nn.Module, *inputs: Tensor | None) -> dict[str, int]:
    """FLOPs of one forward pass by module, named from the class of `module` on."""
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
