"""Prologue-Post (Sec. 2.3): a prologue learned for a frozen tokenizer; other systems pass through."""

import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from prologue.files import replacing
from prologue.fingerprint import fingerprint
from prologue.models.config import PrologueConfig
from prologue.models.export import load_tokenizer, parameter_count
from prologue.models.tokenizer import Tokenizer
from prologue.params import Params
from prologue.plan import TrainingPlan, plan_attach
from prologue.runtime import seed_everything, start_accelerator
from prologue.training.checkpoint import Checkpoints
from prologue.training.image_task import ImageBatch, ImageTask
from prologue.training.loop import train
from prologue.training.output import export_training, save_tokenizer


def make_attached(params: Params, tokenizer: Path, shards: Path, output: Path, curves: Path) -> dict[str, Any]:
    """Learn a prologue for the tokenizer in mode post; hand on any other, or one that has its prologue already.

    Returns the metrics of the stage.
    """
    plan = plan_attach(params)
    if plan is not None and not load_tokenizer(tokenizer).prologue_tokens:
        return attach_prologue(plan, tokenizer, shards, output, curves)
    accelerator = start_accelerator()
    if accelerator.is_main_process:
        with replacing(output) as temporary:
            shutil.copytree(tokenizer, temporary)
        curves.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    return {"attached": False}


def attach_prologue(plan: TrainingPlan, tokenizer: Path, shards: Path, output: Path, curves: Path) -> dict[str, Any]:
    """Train the planned prologue for the frozen tokenizer of a folder; returns the metrics of the stage."""
    accelerator = start_accelerator()
    seed_everything(plan.seed)
    task = AttachTask(plan, shards, with_prologue(load_tokenizer(tokenizer), plan.prologue), accelerator)
    inputs = [shards / "manifest.json", tokenizer / "model.safetensors", tokenizer / "config.json"]
    key = fingerprint(plan.model_dump(mode="json"), inputs)
    checkpoints = Checkpoints("attach", key, plan.stage1.keep_checkpoints)
    result = train(task, plan.stage1, plan.seed, checkpoints, accelerator)
    export_training(checkpoints, curves, accelerator, lambda: save_tokenizer(output, task.ema.model, task.joint_ar))
    parts = {"prologue_encoder": task.model.prologue_encoder, "joint_ar": task.joint_ar}
    return {
        "attached": True,
        "parameters": {name: parameter_count(module) for name, module in parts.items() if module is not None},
        **result.metrics,
        "val": result.validation,
    }


def with_prologue(tokenizer: Tokenizer, prologue: PrologueConfig | None) -> Tokenizer:
    """Freeze a tokenizer and give it a trainable prologue with its own encoder."""
    assert prologue is not None
    tokenizer.requires_grad_(False)
    tokenizer.attach_prologue(prologue)
    return tokenizer


class AttachTask(ImageTask):
    """Trains the prologue's encoder and quantizer and the AR model beside them; everything visual stays frozen."""

    def part_gradients(self, step: int, part: ImageBatch, share: float) -> dict[str, Tensor]:
        """The cross-entropy reaches the prologue and the AR model."""
        with self.autocast():
            output = self.tokenizer(part.images, reconstruct=False)
            loss = self.joint_ar_loss(output, part)
        self.accelerator.backward(share * loss)
        self.count_codes(output)
        return {"ar_loss": loss}
