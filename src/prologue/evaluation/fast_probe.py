"""Linear probe: what a linear classifier reads from the mean of an image's prologue tokens or first visual tokens.

A fast protocol, not MAE's: features of one centre crop, computed once; full-batch L-BFGS in place of 90 epochs of LARS.
"""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from prologue.data.images import ImageShards
from prologue.data.loader import view_batches
from prologue.evaluation.features import gather, share
from prologue.launch import progress
from prologue.models.export import load_tokenizer
from prologue.models.tokenizer import Tokenizer
from prologue.params import Params
from prologue.runtime import start_accelerator

PROTOCOL = "fast: centre crops, standardised, full-batch L-BFGS (not MAE's LARS with augmentation)"
WEIGHT_DECAY = 1e-4
ITERATIONS = 200
BATCH_NORM_EPS = 1e-6  # MAE's


def run_probe(params: Params, attached_folder: Path, shards: Path) -> dict[str, Any]:
    """Train linear classifiers on the training images' token means, and test them on the validation images.

    Returns:
        prologue_FEATURE_top1 and _top5 (absent without a prologue), visual_firstN_FEATURE_top1 and _top5, where N is
        prologue.tokens and FEATURE probe.feature; shares of validation images. Then the protocol.
    """
    accelerator = start_accelerator()
    tokenizer = load_tokenizer(attached_folder, accelerator.device)
    feature, first = params.probe.feature, params.prologue.tokens
    means, labels = {}, {}
    splits: tuple[Literal["train", "val"], ...] = ("train", "val")
    for split in splits:
        images = ImageShards(shards, split)
        means[split] = token_means(tokenizer, images, feature, first, params.evaluation.batch, accelerator)
        labels[split] = torch.from_numpy(np.asarray(images.labels))
    metrics: dict[str, Any] = {}
    for part in means["train"]:
        logits = classify(means["train"][part], labels["train"], means["val"][part])
        name = f"visual_first{first}_{feature}" if part == "visual" else f"{part}_{feature}"
        metrics[f"{name}_top1"] = top_share(logits, labels["val"], 1)
        metrics[f"{name}_top5"] = top_share(logits, labels["val"], 5)
    counts = {f"{split}_images": len(labels[split]) for split in splits}
    return {**metrics, **counts, "feature": feature, "protocol": PROTOCOL, "weight_decay": WEIGHT_DECAY}


@torch.no_grad()
def token_means(
    tokenizer: Tokenizer, images: ImageShards, feature: str, first: int, batch: int, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Mean feature float32 (N, D) over the prologue tokens ('prologue') and over the `first` visual ones ('visual').

    `feature` is encoder (before the quantizer) or code (unit code vectors).
    """
    parts: dict[str, list[Tensor]] = {}
    positions = share(len(images), accelerator)
    batches = view_batches(images, tokenizer.config.image_size, "center", positions, batch)
    for views, _ in progress(batches, f"{feature} features", "batch", math.ceil(len(positions) / batch)):
        pixels = views[:, 0].to(accelerator.device)
        visual, prologue = (
            tokenizer.encoder_features(pixels) if feature == "encoder" else code_vectors(tokenizer, pixels)
        )
        parts.setdefault("visual", []).append(visual[:, :first].float().mean(dim=1))
        if prologue is not None:
            parts.setdefault("prologue", []).append(prologue.float().mean(dim=1))
    return {name: gather(torch.cat(rows), len(images), accelerator) for name, rows in parts.items()}


def code_vectors(tokenizer: Tokenizer, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Unit code vectors of images: visual (B, Nv, code_dim), prologue (B, Np, code_dim) or None."""
    tokens = tokenizer.encode(images)
    visual = tokenizer.visual_quantizer.vectors(tokens.visual)
    if tokens.prologue is None or tokenizer.prologue_quantizer is None:
        return visual, None
    return visual, tokenizer.prologue_quantizer.vectors(tokens.prologue)


def classify(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """Logits (M, classes) of `test` (M, D) by multinomial logistic regression on `train` (N, D), both standardised.

    Deterministic: the weights start at zero and every step sees all training features.
    """
    mean, scale = train.mean(dim=0), (train.var(dim=0, correction=0) + BATCH_NORM_EPS).sqrt()
    x = (train - mean) / scale
    weight = torch.zeros(x.shape[1], int(labels.max()) + 1, requires_grad=True)
    bias = torch.zeros(weight.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight + bias, labels) + WEIGHT_DECAY / 2 * weight.square().sum()
        value.backward()
        return value.item()

    optimizer.step(loss)
    return (((test - mean) / scale) @ weight + bias).detach()


def top_share(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of rows of logits (N, C) with the right label among the k largest (among all where C < k)."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(dim=1).double().mean().item()
