"""A fast linear probe, which is not MAE's: features of one centre crop, computed once, and full-batch L-BFGS."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from prologue.core.params import Params
from prologue.core.runtime import start_accelerator
from prologue.data.images import ImageShards
from prologue.measures.accuracy import accuracies
from prologue.models.saved import load_tokenizer
from prologue.probe.token_means import probe_metrics, split_means
from prologue.training.output import write_no_curves

PROTOCOL = "fast: centre crops, standardised, full-batch L-BFGS (not MAE's LARS with augmentation)"
WEIGHT_DECAY = 1e-4
ITERATIONS = 200
EPS = 1e-6  # under the root of the variance, as in MAE's batch norm


def run_fast_probe(params: Params, attached: Path, shards: Path, curves: Path) -> dict[str, Any]:
    """Fit linear classifiers to the training images' features and test them; arguments and result as `run_probe`."""
    accelerator = start_accelerator()
    tokenizer = load_tokenizer(attached, accelerator.device)
    means, labels = {}, {}
    splits: tuple[Literal["train", "val"], ...] = ("train", "val")
    for split in splits:
        images = ImageShards(shards, split)
        means[split] = split_means(tokenizer, images, params, accelerator)
        labels[split] = torch.from_numpy(np.asarray(images.labels))
    measured = {}
    if accelerator.is_main_process:  # alone: every process has all features
        for part, rows in means["train"].items():
            measured[part] = accuracies(classify(rows, labels["train"], means["val"][part]), labels["val"])
        write_no_curves(curves)
    accelerator.wait_for_everyone()
    counts = {f"{split}_images": len(labels[split]) for split in splits}
    notes = {"feature": params.probe.feature, "protocol": PROTOCOL, "weight_decay": WEIGHT_DECAY}
    return {**probe_metrics(params, measured), **counts, **notes}


def classify(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """Logits (M, classes) of `test` (M, D) by multinomial logistic regression on `train` (N, D), both standardised.

    Deterministic: the weights start at zero and every step sees all training features.
    """
    mean, scale = train.mean(dim=0), (train.var(dim=0, correction=0) + EPS).sqrt()
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
