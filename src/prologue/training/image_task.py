"""What the tasks that train on images share: data, precision, optimizers, the prologue's AR model."""

from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from prologue.data.images import ImageShards
from prologue.data.loader import training_batches
from prologue.models.ar import ARConfig, ARModel
from prologue.models.tokenizer import Tokenizer
from prologue.params import Params, Stage1Params
from prologue.training.checkpoint import TrainingState
from prologue.training.draws import draw_share
from prologue.training.ema import EMA
from prologue.training.optimizers import build_adamw, learning_rate, set_learning_rate
from prologue.training.validation import validate_tokenizer

TOKENIZER_BETAS = (0.0, 0.99)
COMPACT_AR_BETAS = (0.9, 0.99)


class ImageTask:
    """A tokenizer that learns from images, with its EMA and, where it has a prologue, the compact AR model."""

    def __init__(
        self, params: Params, schedule: Stage1Params, shards: Path, tokenizer: Tokenizer, accelerator: Accelerator
    ) -> None:
        self.params, self.schedule, self.accelerator = params, schedule, accelerator
        self.images, self.val_images = ImageShards(shards, "train"), ImageShards(shards, "val")
        self.model = tokenizer.to(accelerator.device)
        self.ema = EMA(self.model, self.schedule.ema_half_life)
        self.state = TrainingState({"tokenizer": self.model, "ema": self.ema.model})
        self.compact_ar: ARModel | None = None
        self.tokenizer: nn.Module = accelerator.prepare(self.model)
        self.optimize("tokenizer", self.model, TOKENIZER_BETAS, 0.0)
        if tokenizer.prologue_tokens:
            vocabulary = tokenizer.vocabulary(len(self.images.classes))
            config = ARConfig(vocabulary=vocabulary, transformer=params.prologue.compact_ar)
            self.compact_ar = ARModel(config).to(accelerator.device)
            self.state.modules["compact_ar"] = self.compact_ar
            self.ar: nn.Module = accelerator.prepare(self.compact_ar)
            self.optimize("compact_ar", self.compact_ar, COMPACT_AR_BETAS, self.schedule.ar_weight_decay)

    def optimize(self, name: str, module: nn.Module, betas: tuple[float, float], weight_decay: float) -> None:
        """Give a module its optimizer, under the same name in the training state."""
        self.state.optimizers[name] = build_adamw(module, betas, weight_decay, self.schedule.gate_lr_scale)

    def batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 (b, 3, H, W) and labels of steps start, start + 1, ..."""
        return training_batches(
            self.images,
            self.params.data.image_size,
            self.params.augment,
            self.params.seed,
            self.schedule.batch,
            start,
            self.schedule.steps,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )

    def autocast(self) -> torch.autocast:
        """bf16 matrix products where the params ask for them."""
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.params.precision == "bf16")

    def set_learning_rates(self, step: int) -> None:
        """The schedule's rate of a step for every optimizer."""
        for optimizer in self.state.optimizers.values():
            set_learning_rate(optimizer, learning_rate(self.schedule, step))

    def update(self, *names: str) -> None:
        """Step and clear the named optimizers."""
        for name in names:
            self.state.optimizers[name].step()
            self.state.optimizers[name].zero_grad()

    def drop_visual(self, step: int) -> Tensor:
        """Which of this process's images lose all visual inputs of the AR model in this step: bool (b,)."""
        return draw_share(
            self.params.prologue.visual_dropout, self.params.seed, step, self.schedule.batch, self.accelerator
        )

    def validate(self) -> dict[str, float]:
        """Reconstruction, codebook usage and AR loss of the EMA tokenizer on validation images."""
        with self.autocast():
            return validate_tokenizer(self.ema.model, self.compact_ar, self.val_images)
