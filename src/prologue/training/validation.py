"""Validation inside training, on a fixed spread of validation images."""

import math

import torch
from torch import Tensor

from prologue.data.images import ImageShards
from prologue.data.loader import view_batches
from prologue.data.order import spread
from prologue.models.ar import ARModel
from prologue.models.tokenizer import Tokenizer, to_uint8

BATCH = 125


@torch.no_grad()
def validate_tokenizer(tokenizer: Tokenizer, compact_ar: ARModel | None, images: ImageShards) -> dict[str, float]:
    """Mean PSNR (dB, of rounded images), codebook usage, and AR loss (nats per token) of up to 1,000 images."""
    device = next(tokenizer.parameters()).device
    psnr: list[Tensor] = []
    losses: list[Tensor] = []
    used: dict[str, list[Tensor]] = {}
    for views, _ in view_batches(images, tokenizer.config.image_size, "center", spread(len(images)), BATCH):
        batch = views[:, 0].to(device)
        tokens = tokenizer.encode(batch)
        psnr.append(image_psnr(to_uint8(tokenizer.decode(tokens.visual)), batch))
        used.setdefault("visual", []).append(tokens.visual.unique())
        if tokens.prologue is not None and compact_ar is not None:
            used.setdefault("prologue", []).append(tokens.prologue.unique())
            losses.append(unconditional_loss(compact_ar, tokens.prologue, tokens.visual))
    books = {"visual": tokenizer.config.tokenizer.codebook, "prologue": tokenizer.prologue_codebook}
    usage = {f"{name}_usage": len(torch.cat(ids).unique()) / books[name] for name, ids in used.items()}
    ar_loss = {"ar_loss": torch.cat(losses).mean().item()} if losses else {}
    return {"psnr": torch.cat(psnr).mean().item(), **usage, **ar_loss}


def unconditional_loss(ar: ARModel, prologue: Tensor, visual: Tensor) -> Tensor:
    """AR loss per token of each image without its class: (B,), nats."""
    null = torch.full_like(visual[:, 0], ar.vocabulary.null_class)
    return ar.loss(ar(prologue, visual, null), prologue, visual).total / ar.vocabulary.length


def image_psnr(images: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each uint8 image (B, 3, H, W) in dB; identical images give 100 dB at most."""
    mse = (images.float() - originals.float()).square().flatten(1).mean(1)
    return 20 * math.log10(255) - 10 * mse.clamp_min(255**2 / 1e10).log10()
