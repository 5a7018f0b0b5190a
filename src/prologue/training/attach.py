"""Prologue-Post (Sec. 2.3): a prologue learned for a frozen tokenizer."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor

from prologue.core.runtime import seed_everything, start_accelerator
from prologue.core.work import origin_of
from prologue.models.config import PrologueConfig
from prologue.models.saved import load_tokenizer, parameter_count
from prologue.models.tokenizer import Tokenizer
from prologue.training.image_task import ImageBatch, ImageTask
from prologue.training.output import run_training, save_tokenizer
from prologue.training.plan import TrainingPlan


def attach_prologue(
    plan: TrainingPlan,
    tokenizer: Path,
    shards: Path,
    output: Path,
    curves: Path,
    draw: Callable[[Tokenizer], Image] | None,
) -> dict[str, Any]:
    """Train the planned prologue for the frozen tokenizer of a folder; arguments and result as `train_tokenizer`."""
    accelerator = start_accelerator()
    seed_everything(plan.seed)
    task = AttachTask(plan, shards, with_prologue(load_tokenizer(tokenizer), plan.prologue), accelerator)
    inputs = [shards / "manifest.json", tokenizer / "model.safetensors", tokenizer / "config.json"]
    origin = origin_of(plan.model_dump(mode="json"), inputs, __file__)
    save = partial(save_tokenizer, output, task.ema.model, task.joint_ar)
    picture = partial(draw, task.ema.model) if draw else None
    metrics = run_training("attach", task, plan.stage1, plan.seed, origin, accelerator, curves, save, picture)
    parts = {"prologue_encoder": task.model.prologue_encoder, "joint_ar": task.joint_ar}
    counts = {name: parameter_count(module) for name, module in parts.items() if module is not None}
    return {"attached": True, "parameters": counts, "precision": plan.precision, **metrics}


def with_prologue(tokenizer: Tokenizer, prologue: PrologueConfig | None) -> Tokenizer:
    """Freeze a tokenizer and give it a trainable prologue with its own encoder."""
    assert prologue is not None
    tokenizer.requires_grad_(False)
    tokenizer.attach_prologue(prologue)
    return tokenizer


class AttachTask(ImageTask):
    """Trains the prologue's encoder and quantizer and the AR model beside them; everything visual stays frozen."""

    def part_gradients(self, step: int, part: ImageBatch, fraction: float) -> dict[str, Tensor]:
        """The cross-entropy reaches the prologue and the AR model."""
        with self.autocast():
            output = self.tokenizer(part.images, reconstruct=False)
            loss = self.joint_ar_loss(output, part)
        self.accelerator.backward(fraction * loss)
        self.count_codes(output)
        return {"ar_loss": loss}
