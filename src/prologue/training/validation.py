"""Validation inside training, on a fixed spread of validation images."""

import torch
from accelerate import Accelerator
from torch import Tensor

from prologue.core.sharing import gather_blocks, own_block
from prologue.data.images import ImageShards
from prologue.data.loader import view_batches
from prologue.data.order import spread
from prologue.measures.codebooks import codebook_usage, count_codes
from prologue.measures.images import image_psnr
from prologue.models.ar import ARModel, SequenceLoss
from prologue.models.tokenizer import Tokenizer, to_uint8

BATCH = 125


@torch.no_grad()
def validate_tokenizer(
    tokenizer: Tokenizer, joint_ar: ARModel | None, images: ImageShards, accelerator: Accelerator
) -> dict[str, float]:
    """Reconstruction, codebooks and AR loss of up to 1,000 images, which all processes share.

    Returns:
        psnr (dB, mean over images) and l1 (in [-1, 1]) of rounded images; NAME_usage and NAME_perplexity of each
        codebook; ar_loss, nats per token without the class, where there is an AR model.
    """
    chosen = spread(len(images))
    own = chosen[own_block(len(chosen), accelerator)]
    parts: dict[str, list[Tensor]] = {}
    for views, _ in view_batches(images, tokenizer.config.image_size, "center", own, BATCH):
        batch = views[:, 0].to(accelerator.device)
        tokens = tokenizer.encode(batch)
        copies = to_uint8(tokenizer.decode(tokens.visual))
        rows = tokens.named()
        rows["psnr"] = image_psnr(copies, batch)
        rows["l1"] = (copies.float() - batch.float()).abs().flatten(1).mean(1) / 127.5
        if joint_ar is not None:
            rows["ar_loss"] = unconditional_loss(joint_ar, tokens.prologue, tokens.visual)
        for name, row in rows.items():
            parts.setdefault(name, []).append(row)
    whole = {name: gather_blocks(torch.cat(rows), len(chosen), accelerator) for name, rows in parts.items()}
    values: dict[str, float] = {name: whole[name].mean().item() for name in ("psnr", "l1", "ar_loss") if name in whole}
    for name, codes in tokenizer.codebooks.items():
        values[f"{name}_usage"], values[f"{name}_perplexity"] = codebook_usage(count_codes(whole[name], codes))
    return values


def unconditional_loss(ar: ARModel, prologue: Tensor | None, visual: Tensor) -> Tensor:
    """AR loss per token of each image without its class: (B,), nats."""
    null = torch.full_like(visual[:, 0], ar.vocabulary.null_class)
    return SequenceLoss.of(ar.losses(prologue, visual, null), ar.vocabulary).total / ar.vocabulary.length
