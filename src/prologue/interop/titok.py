"""TiTok as 1d-tokenizer saved it: its sizes, and which of its tensors makes each of ours."""

import math
from typing import Any

from prologue.core.errors import PrologueError
from prologue.core.params import TransformerParams
from prologue.interop.checkpoints import Checkpoint, numbers, shape
from prologue.interop.maskgit_vq import conv_name, conv_size
from prologue.interop.tensors import Sources, as_linear, plain
from prologue.models.config import TiTokSize

TITOK = (  # our names and theirs
    ("encoder.latents", "latent_tokens"),
    ("encoder.transformer.", "encoder."),
    ("visual_quantizer.projection", "encoder.conv_out"),
    ("visual_quantizer.codebook", "quantize.embedding"),
    ("decoder.embed", "decoder.decoder_embed"),
    ("decoder.mask", "decoder.mask_token"),
    ("decoder.transformer.", "decoder."),
    ("decoder.head", "decoder.ffn"),
    ("decoder.pixel_codes", "pixel_quantize.embedding"),
    ("token_positions", "latent_token_positional_embedding"),
    ("positions", "positional_embedding"),
    ("blocks.", "transformer."),
    ("self_attn", "attn"),
    ("norm1", "ln_1"),
    ("norm2", "ln_2"),
    ("linear1", "mlp.c_fc"),
    ("linear2", "mlp.c_proj"),
)


def titok_size(found: Checkpoint) -> TiTokSize:
    """Sizes of a TiTok; its config alone tells the norm and how latents are reshaped.

    Raises PrologueError for a config that is missing or of a variant without a codebook, or for missing tensors.
    """
    told = _titok_config(found)
    tokens, dim = shape(found, "latent_tokens")
    codebook, code_dim = shape(found, "quantize.embedding.weight")
    patch = shape(found, "encoder.patch_embed.weight")[-1]
    grid = math.isqrt(shape(found, "encoder.positional_embedding")[0] - 1)
    decoder_grid = math.isqrt(shape(found, "decoder.positional_embedding")[0] - 1)
    pixel = None
    if "pixel_quantize.embedding.weight" in found.tensors:
        pixel_codes, pixel_dim = shape(found, "pixel_quantize.embedding.weight")
        hidden = shape(found, "pixel_decoder.conv_out.weight")[1]
        pixel = conv_size(found, "pixel_decoder.up", hidden, pixel_dim, pixel_codes)
    layers = {part: len(numbers(found, f"{part}.transformer")) for part in ("encoder", "decoder")}
    return TiTokSize(
        image_size=grid * patch,
        tokens=tokens,
        patch=patch,
        decoder_patch=grid * patch // decoder_grid,
        encoder=TransformerParams(layers=layers["encoder"], dim=dim),
        decoder=TransformerParams(layers=layers["decoder"], dim=shape(found, "decoder.mask_token")[-1]),
        code_dim=code_dim,
        codebook=codebook,
        l2_norm=told["use_l2_norm"],
        legacy=told["is_legacy"],
        head=shape(found, "decoder.ffn.0.weight")[0] if "decoder.ffn.2.weight" in found.tensors else None,
        pixel_decoder=pixel,
    )


def _titok_config(found: Checkpoint) -> dict[str, Any]:
    """What a TiTok's config says of the norm and the reshape. Raises PrologueError as `titok_size`."""
    told = found.told("model", "vq_model")
    if not isinstance(told, dict):
        raise PrologueError(
            f"{found.where} is a TiTok, and its config.json is not beside it: no tensor tells use_l2_norm and is_legacy"
        )
    if told.get("quantize_mode", "vq") != "vq":
        raise PrologueError(f"{found.where} is a TiTok of quantize_mode {told['quantize_mode']}, without a codebook")
    told = {"is_legacy": True} | told  # as their program reads it
    for key in ("use_l2_norm", "is_legacy"):
        if not isinstance(told.get(key), bool):
            raise PrologueError(f"{found.files[-1]}: model.vq_model.{key} is {told.get(key)}, not true or false")
    return told


def titok_sources(own: list[str], size: TiTokSize) -> Sources:
    """Which tensor of a TiTok makes each of ours; 1 x 1 convolutions become linear layers."""
    sources: Sources = {}
    for name in own:
        theirs = name
        for part, other in TITOK:
            theirs = theirs.replace(part, other)
        if name.startswith("decoder.pixels."):
            theirs = name.replace("decoder.pixels.", "pixel_decoder." if size.pixel_decoder else "decoder.conv_out.")
            theirs = conv_name(theirs)
        flat = name.startswith(("visual_quantizer.projection.", "decoder.head."))
        sources |= as_linear(name, theirs) if flat else plain(name, theirs)
    return sources
