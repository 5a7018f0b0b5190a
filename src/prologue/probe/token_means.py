"""What linear probes read: the mean feature of an image's prologue tokens, and that of its first visual tokens."""

import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from prologue.core.launch import progress
from prologue.core.params import Params
from prologue.core.sharing import gather_blocks, own_block
from prologue.data.images import ImageShards
from prologue.data.loader import view_batches
from prologue.models.tokenizer import Tokenizer


@torch.no_grad()
def mean_features(tokenizer: Tokenizer, pixels: Tensor, params: Params) -> dict[str, Tensor]:
    """Mean features float32 (B, D) of images uint8 (B, 3, H, W), on the tokenizer's device.

    'visual' is over the first `prologue.tokens` visual tokens, 'prologue' over all prologue tokens and absent without a
    prologue. `probe.feature` is encoder (before the quantizer) or code (unit code vectors).
    """
    encoder = params.probe.feature == "encoder"
    visual, prologue = tokenizer.encoder_features(pixels) if encoder else code_vectors(tokenizer, pixels)
    means = {"visual": visual[:, : params.prologue.tokens].float().mean(dim=1)}
    if prologue is not None:
        means["prologue"] = prologue.float().mean(dim=1)
    return means


def code_vectors(tokenizer: Tokenizer, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Unit code vectors of images: visual (B, Nv, code_dim), prologue (B, Np, code_dim) or None."""
    tokens = tokenizer.encode(pixels)
    visual = tokenizer.visual_quantizer.vectors(tokens.visual)
    if tokens.prologue is None or tokenizer.prologue_quantizer is None:
        return visual, None
    return visual, tokenizer.prologue_quantizer.vectors(tokens.prologue)


def split_means(
    tokenizer: Tokenizer, images: ImageShards, params: Params, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Mean features (N, D) of the centre crops of a whole split, on the CPU of every process; see `mean_features`."""
    parts: dict[str, list[Tensor]] = {}
    positions, batch = own_block(len(images), accelerator), params.evaluation.batch
    batches = view_batches(images, tokenizer.config.image_size, "center", positions, batch)
    label = f"{params.probe.feature} features"
    for views, _ in progress(batches, label, "batch", math.ceil(len(positions) / batch)):
        for name, rows in mean_features(tokenizer, views[:, 0].to(accelerator.device), params).items():
            parts.setdefault(name, []).append(rows)
    return {name: gather_blocks(torch.cat(rows), len(images), accelerator) for name, rows in parts.items()}


def probe_metrics(params: Params, measured: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Accuracies by part (prologue, visual) under names that say which feature of which tokens by which protocol."""
    parts = {"prologue": "prologue", "visual": f"visual_first{params.prologue.tokens}"}
    feature, protocol = params.probe.feature, params.probe.protocol
    return {
        f"{parts[part]}_{feature}_{protocol}_{top}": value
        for part, tops in measured.items()
        for top, value in tops.items()
    }
