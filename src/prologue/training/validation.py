"""Validation inside training, on a fixed spread of validation images."""

import torch
from torch import Tensor

from prologue.data.images import ImageShards
from prologue.data.loader import view_batches
from prologue.data.order import spread
from prologue.measures.codebooks import codebook_usage, count_codes
from prologue.measures.images import image_psnr
from prologue.models.ar import ARModel
from prologue.models.tokenizer import Tokenizer, to_uint8

BATCH = 125


@torch.no_grad()
def validate_tokenizer(tokenizer: Tokenizer, joint_ar: ARModel | None, images: ImageShards) -> dict[str, float]:
    """Reconstruction, codebooks and AR loss of up to 1,000 images.

    Returns:
        psnr (dB, mean over images) and l1 (in [-1, 1]) of rounded images; NAME_usage and NAME_perplexity of each
        codebook; ar_loss, nats per token without the class, where there is an AR model.
    """
    device = next(tokenizer.parameters()).device
    psnr: list[Tensor] = []
    l1: list[Tensor] = []
    losses: list[Tensor] = []
    codebooks = tokenizer.codebooks
    counts = {name: torch.zeros(codes, dtype=torch.long, device=device) for name, codes in codebooks.items()}
    for views, _ in view_batches(images, tokenizer.config.image_size, "center", spread(len(images)), BATCH):
        batch = views[:, 0].to(device)
        tokens = tokenizer.encode(batch)
        copies = to_uint8(tokenizer.decode(tokens.visual))
        psnr.append(image_psnr(copies, batch))
        l1.append((copies.float() - batch.float()).abs().flatten(1).mean(1) / 127.5)
        for name, ids in zip(("prologue", "visual"), tokens, strict=True):
            if ids is not None:
                counts[name] += count_codes(ids, codebooks[name])
        if joint_ar is not None:
            losses.append(unconditional_loss(joint_ar, tokens.prologue, tokens.visual))
    values = {"psnr": torch.cat(psnr).mean().item(), "l1": torch.cat(l1).mean().item()}
    for name, counted in counts.items():
        values[f"{name}_usage"], values[f"{name}_perplexity"] = codebook_usage(counted)
    return values | ({"ar_loss": torch.cat(losses).mean().item()} if losses else {})


def unconditional_loss(ar: ARModel, prologue: Tensor | None, visual: Tensor) -> Tensor:
    """AR loss per token of each image without its class: (B,), nats."""
    null = torch.full_like(visual[:, 0], ar.vocabulary.null_class)
    return ar.loss(ar(prologue, visual, null), prologue, visual).total / ar.vocabulary.length
