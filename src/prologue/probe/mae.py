"""Linear probe by MAE's protocol (He et al. 2021, App. A.1): heads trained by LARS on augmented views."""

import math
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.nn import functional as F

from prologue.core.params import LoopParams, Params
from prologue.core.precision import settle
from prologue.core.runtime import seed_everything, start_accelerator
from prologue.core.work import origin_of
from prologue.data.images import ImageShards
from prologue.data.loader import training_batches
from prologue.data.transforms import random_resized_crop
from prologue.measures.accuracy import accuracies
from prologue.models.saved import load_tokenizer
from prologue.probe.token_means import mean_features, probe_metrics, split_means
from prologue.training.checkpoint import TrainingState
from prologue.training.optimizers import apply
from prologue.training.output import run_training
from prologue.training.schedule import CosineSchedule

MOMENTUM = 0.9
Pieces = list[tuple[Tensor, Tensor]]  # images and labels of a batch
PAPER = {"steps": "90epochs", "batch": 16384, "lr": 6.4, "warmup": "10epochs"}  # lr = 0.1 * batch / 256


def run_mae_probe(params: Params, attached: Path, shards: Path, curves: Path) -> dict[str, Any]:
    """Train linear heads on augmented training images and test them; arguments and result as `run_probe`.

    Raises:
        PrologueError: as `train`.
    """
    accelerator, params = start_accelerator(), settle(params)
    task = ProbeTask(params, attached, shards, accelerator)
    used = params.model_dump(
        mode="json",
        include={"seed": True, "precision": True, "probe": True, "evaluation": {"batch"}, "prologue": {"tokens"}},
    )
    inputs = [shards / "manifest.json", attached / "model.safetensors", attached / "config.json"]
    origin = origin_of(used, inputs, __file__)
    metrics = run_training("probe", task, params.probe.mae, params.seed, origin, accelerator, curves)
    counts = {"train_images": len(task.images), "val_images": len(task.val_labels)}
    words = describe_protocol(params.probe.mae, params.precision)
    notes = {"precision": params.precision, "feature": params.probe.feature, "protocol": words, "seed": params.seed}
    return {**probe_metrics(params, task.test()), **counts, **notes, **metrics}


def describe_protocol(params: LoopParams, precision: str) -> str:
    """What was done, in words, and whether it is what the paper did."""
    others = "" if params.model_dump(include=set(PAPER)) == PAPER else ", not with the paper's settings"
    steps, warmup = (f"{d} steps" if isinstance(d, int) else d for d in (params.steps, params.warmup))
    return (
        f"mae: MAE's linear protocol{others}: random resized crops, half of them mirrored, batch norm without affine, "
        f"LARS without weight decay, {steps} of batch {params.batch}, lr up to {params.lr} in {warmup} and by half a "
        f"cosine to 0; features in {precision}; centre crops in validation"
    )


class ProbeHead(nn.Module):
    """Batch norm without affine and a linear layer, which starts at N(0, 0.01): MAE's head. (B, D) to (B, classes)."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, eps=1e-6, affine=False)
        self.linear = nn.Linear(dim, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.linear(self.norm(features))
        return logits


def build_lars(module: nn.Module) -> Lars:
    """LARS over the parameters of a module, known by name: trust coefficient 0.001, no weight decay.

    As MAE's: matrices move in proportion to their norm, biases as by SGD. timm's optimizer scales nothing that has no
    weight decay unless it is told to.
    """
    groups: dict[bool, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in module.named_parameters():
        groups.setdefault(parameter.ndim > 1, []).append((name, parameter))
    return Lars(
        [{"params": own, "lr_scale": 1.0, "always_adapt": matrices} for matrices, own in groups.items()],
        lr=0.0,  # set before every step
        momentum=MOMENTUM,
    )


class ProbeTask:
    """A head for each part of the frozen tokenizer's features: prologue (where there is one) and visual.

    Each process computes the features of its rows of a batch. Then all of them do the same step on the features of the
    whole batch, which are small: batch norm and gradients do not depend on the number of processes.
    """

    def __init__(self, params: Params, attached: Path, shards: Path, accelerator: Accelerator) -> None:
        self.params, self.loop, self.accelerator = params, params.probe.mae, accelerator
        self.images, val = ImageShards(shards, "train"), ImageShards(shards, "val")
        self.schedule = CosineSchedule.of(self.loop, len(self.images))
        self.tokenizer = load_tokenizer(attached, accelerator.device)
        with self.autocast():  # once: neither these images nor the tokenizer change
            self.val = split_means(self.tokenizer, val, params, accelerator)
        self.val_labels = torch.from_numpy(np.asarray(val.labels))
        seed_everything(params.seed)
        self.heads = {
            part: ProbeHead(rows.shape[1], len(val.classes)).to(accelerator.device) for part, rows in self.val.items()
        }
        self.spent: dict[str, float] = {}
        self.state = TrainingState({**self.heads}, {part: build_lars(head) for part, head in self.heads.items()})

    def autocast(self) -> torch.autocast:
        """bf16 matrix products in the tokenizer where the params ask for them."""
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.params.precision == "bf16")

    def batches(self, start: int) -> Iterator[Pieces]:
        """Augmented images uint8 (b, 3, H, W) and labels of steps start, start + 1, ..., each in pieces.

        A whole batch of the paper's is 3 GB, of which each of a loader's workers would make and queue several.
        """
        piece, processes = self.params.evaluation.batch, self.accelerator.num_processes
        pieces = training_batches(
            self.images,
            partial(random_resized_crop, size=self.tokenizer.config.image_size),
            self.params.seed,
            self.loop.batch,
            start,
            self.schedule.steps,
            self.accelerator.process_index,
            processes,
            piece,
        )
        count = math.ceil(self.loop.batch / processes / piece)
        return iter(lambda: list(islice(pieces, count)), [])

    def gradients(self, step: int, batch: Pieces) -> dict[str, Tensor]:
        """Cross-entropy of each head over the whole batch."""
        features, labels = self.whole_batch(batch)
        losses = {}
        for part, head in self.heads.items():
            loss = F.cross_entropy(head.train()(features[part]), labels)
            loss.backward()
            losses[f"{part}_loss"] = loss.detach()
        return losses

    def whole_batch(self, pieces: Pieces) -> tuple[dict[str, Tensor], Tensor]:
        """Mean features (B, D) by part and labels (B,) of all processes' images, on every process."""
        device = self.accelerator.device
        with self.autocast():
            rows = [mean_features(self.tokenizer, pixels.to(device), self.params) for pixels, _ in pieces]
        labels = torch.cat([own for _, own in pieces])
        own = {part: torch.cat([row[part] for row in rows]) for part in self.heads}
        gathered: tuple[dict[str, Tensor], Tensor] = self.accelerator.gather((own, labels.to(device)))
        return gathered

    def update(self, step: int, norms: dict[str, Tensor], broken: Tensor) -> None:
        """Move both heads."""
        for optimizer in self.state.optimizers.values():
            apply(optimizer, self.schedule.rate(step), broken)

    def settle(self) -> None:
        """Nothing is counted."""

    def measure(self, step: int) -> dict[str, float]:
        """Nothing beside the losses."""
        return {}

    def validate(self) -> dict[str, float]:
        """Top-1 and top-5 accuracy of both heads on all validation images."""
        return {f"{part}_{top}": value for part, tops in self.test().items() for top, value in tops.items()}

    @torch.no_grad()
    def test(self) -> dict[str, dict[str, float]]:
        """The same by part."""
        device = self.accelerator.device
        return {
            part: accuracies(head.eval()(self.val[part].to(device)).cpu(), self.val_labels)
            for part, head in self.heads.items()
        }
