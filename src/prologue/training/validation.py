"""Validation inside training, on a fixed spread of validation images."""

import math

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from prologue.data.images import ImageShards
from prologue.data.loader import view_batches
from prologue.data.order import spread
from prologue.evaluation.codebooks import codebook_usage, count_codes
from prologue.figures.grids import image_grid
from prologue.models.ar import ARModel
from prologue.models.tokenizer import Tokenizer, to_uint8

BATCH = 125


@torch.no_grad()
def validate_tokenizer(tokenizer: Tokenizer, joint_ar: ARModel | None, images: ImageShards) -> dict[str, float]:
    """Reconstruction, codebooks and AR loss of up to 1,000 images.

    Returns:
        psnr (dB, mean over images) and l1 (in [-1, 1]) of rounded images; NAME_usage and NAME_perplexity of each book;
        ar_loss, nats per token without the class, where there is an AR model.
    """
    device = next(tokenizer.parameters()).device
    psnr: list[Tensor] = []
    l1: list[Tensor] = []
    losses: list[Tensor] = []
    books = {"visual": tokenizer.config.tokenizer.codebook, "prologue": tokenizer.prologue_codebook}
    counts = {name: torch.zeros(codes, dtype=torch.long, device=device) for name, codes in books.items() if codes}
    for views, _ in view_batches(images, tokenizer.config.image_size, "center", spread(len(images)), BATCH):
        batch = views[:, 0].to(device)
        tokens = tokenizer.encode(batch)
        copies = to_uint8(tokenizer.decode(tokens.visual))
        psnr.append(image_psnr(copies, batch))
        l1.append((copies.float() - batch.float()).abs().flatten(1).mean(1) / 127.5)
        for name, ids in zip(("prologue", "visual"), tokens, strict=True):
            if ids is not None:
                counts[name] += count_codes(ids, books[name])
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


def image_psnr(images: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each uint8 image (B, 3, H, W) in dB; identical images give 100 dB at most."""
    mse = (images.float() - originals.float()).square().flatten(1).mean(1)
    return 20 * math.log10(255) - 10 * mse.clamp_min(255**2 / 1e10).log10()


def reconstruction_grid(tokenizer: Tokenizer, images: ImageShards, count: int) -> Image:
    """A row of `count` validation images above a row of their reconstructions."""
    device = next(tokenizer.parameters()).device
    chosen = np.linspace(0, len(images) - 1, count).astype(np.int64)
    views, _ = next(view_batches(images, tokenizer.config.image_size, "center", chosen, count))
    originals = views[:, 0].to(device)
    copies = to_uint8(tokenizer.decode(tokenizer.encode(originals).visual))
    rows = torch.cat((originals, copies)).permute(0, 2, 3, 1).cpu().numpy()
    return image_grid(rows, count, ["original", "reconstruction"])
