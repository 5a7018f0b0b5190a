"""What the trainings on images share: data, precision, optimizers, the AR model beside the tokenizer."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from prologue.core.seeds import Stream
from prologue.data.images import ImageShards
from prologue.data.loader import training_batches
from prologue.data.transforms import random_crop
from prologue.models.ar import ARConfig, ARModel, TokenLosses
from prologue.models.tokenizer import Tokenizer, TokenizerOutput
from prologue.training.checkpoint import TrainingState
from prologue.training.draws import Draws
from prologue.training.ema import EMA
from prologue.training.joint_ar import joint_ar_loss
from prologue.training.optimizers import apply, build_adamw
from prologue.training.plan import JointARPlan, TrainingPlan
from prologue.training.prepare import micro_batches, prepare
from prologue.training.schedule import Schedule
from prologue.training.start import start_from_data
from prologue.training.usage import CodebookUsage
from prologue.training.validation import validate_tokenizer

TOKENIZER_BETAS = (0.0, 0.99)
JOINT_AR_BETAS = (0.9, 0.99)


class ImageBatch(NamedTuple):
    """Images uint8 (b, 3, H, W), classes of the AR model (b,), and whose visual inputs it loses: bool (b,) or None."""

    images: Tensor
    classes: Tensor
    drop_visual: Tensor | None

    def part(self, rows: slice) -> "ImageBatch":
        """Some of its rows."""
        drop = None if self.drop_visual is None else self.drop_visual[rows]
        return ImageBatch(self.images[rows], self.classes[rows], drop)


class ImageTask(ABC):
    """A tokenizer that learns from images, with its EMA and, where the plan has one, an AR model beside it."""

    def __init__(self, plan: TrainingPlan, shards: Path, tokenizer: Tokenizer, accelerator: Accelerator) -> None:
        self.plan, self.params, self.accelerator = plan, plan.stage1, accelerator
        self.images, self.val_images = ImageShards(shards, "train"), ImageShards(shards, "val")
        self.schedule = Schedule.of(plan.stage1, len(self.images))
        self.model = tokenizer.to(accelerator.device)
        if plan.prologue_start == "data":
            start_from_data(self.model, self.images)
        self.ema = EMA(self.model, self.params.ema_half_life)
        self.state = TrainingState({"tokenizer": self.model, "ema": self.ema.model})
        self.tokenizer = prepare(self.model, accelerator)
        self.wrapped = [self.tokenizer]
        self.optimize("tokenizer", self.model, TOKENIZER_BETAS, 0.0)
        self.joint_ar: ARModel | None = None
        if plan.joint_ar is not None:
            self._add_joint_ar(plan.joint_ar)
        self.spent: dict[str, float] = {}
        self.usage = CodebookUsage(tokenizer.codebooks, self.params.min_usage, accelerator)
        self.state.counts = self.usage.settled

    def _add_joint_ar(self, plan: JointARPlan) -> None:
        vocabulary = self.model.vocabulary(len(self.images.classes))
        self.joint_ar = ARModel(ARConfig(vocabulary=vocabulary, transformer=plan.transformer))
        self.joint_ar.to(self.accelerator.device)
        self.state.modules["joint_ar"] = self.joint_ar
        self.ar = prepare(TokenLosses(self.joint_ar), self.accelerator)
        self.wrapped.append(self.ar)
        self.optimize("joint_ar", self.joint_ar, JOINT_AR_BETAS, self.params.ar_weight_decay)

    def optimize(self, name: str, module: nn.Module, betas: tuple[float, float], weight_decay: float) -> None:
        """Give a module its optimizer, under the same name in the training state."""
        self.state.optimizers[name] = build_adamw(module, betas, weight_decay, self.params.gate_lr_scale)

    def batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 (b, 3, H, W) and labels of steps start, start + 1, ..."""
        return training_batches(
            self.images,
            partial(random_crop, size=self.plan.image_size, augment=self.plan.augment),
            self.plan.seed,
            self.params.batch,
            start,
            self.schedule.steps,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )

    def gradients(self, step: int, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Add the gradients of a step's batch, in micro-batches; returns the mean unweighted losses."""
        whole = self._with_draws(step, *batch)
        size = len(whole.images)
        means: dict[str, Tensor] = {}
        for rows in micro_batches(size, self.wrapped, self.accelerator):
            part = whole.part(rows)
            fraction = len(part.images) / size
            for name, loss in self.part_gradients(step, part, fraction).items():
                means[name] = means.get(name, torch.zeros((), device=loss.device)) + fraction * loss.detach()
        return means

    @abstractmethod
    def part_gradients(self, step: int, part: ImageBatch, fraction: float) -> dict[str, Tensor]:
        """Add the gradients of a micro-batch, which is a fraction of the step's samples; returns its losses."""

    def update(self, step: int, norms: dict[str, Tensor], broken: Tensor) -> None:
        """Move every weight along its gradient, and the EMA after it."""
        for optimizer in self.state.optimizers.values():
            apply(optimizer, self.schedule.rate(step), broken)
        self.ema.update(self.model)

    def _with_draws(self, step: int, images: Tensor, labels: Tensor) -> ImageBatch:
        device, plan = self.accelerator.device, self.plan.joint_ar
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        if plan is None or self.joint_ar is None:
            return ImageBatch(images, labels, None)
        draws = Draws(self.plan.seed, step, self.params.batch, self.accelerator)
        unlabelled = draws.marks(Stream.LABEL_DROP, plan.label_drop)
        drop_visual = draws.marks(Stream.VISUAL_DROPOUT, plan.visual_dropout) if plan.visual_dropout else None
        return ImageBatch(images, torch.where(unlabelled, self.joint_ar.vocabulary.null_class, labels), drop_visual)

    def joint_ar_loss(self, output: TokenizerOutput, part: ImageBatch) -> Tensor:
        """Cross-entropy of the AR model beside the tokenizer, nats per token; its gradient goes where the plan says."""
        assert self.joint_ar is not None
        assert self.plan.joint_ar is not None
        weight = self.plan.joint_ar.weight
        return joint_ar_loss(self.ar, self.joint_ar.vocabulary, output, weight, part.classes, part.drop_visual).total

    def count_codes(self, output: TokenizerOutput) -> None:
        """Note which codes a micro-batch used."""
        ids = {"visual": output.visual.ids}
        if output.prologue is not None:
            ids["prologue"] = output.prologue.argmax(dim=-1)
        self.usage.add(ids)

    def autocast(self) -> torch.autocast:
        """bf16 matrix products where the params ask for them."""
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.plan.precision == "bf16")

    def settle(self) -> None:
        """Bring the counts of codes together."""
        self.usage.settle()

    def measure(self, step: int) -> dict[str, float]:
        """Codebook usage since the last call."""
        return self.usage.drain(step)

    def validate(self) -> dict[str, float]:
        """Reconstruction, codebook usage and AR loss of the EMA tokenizer on validation images."""
        with self.autocast():
            return validate_tokenizer(self.ema.model, self.joint_ar, self.val_images, self.accelerator)
