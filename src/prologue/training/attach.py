"""Prologue-Post (Sec. 2.3): a prologue learned for a frozen tokenizer; other systems pass through."""

import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from prologue.files import replacing
from prologue.models.export import load_tokenizer, parameter_count, save_model
from prologue.models.tokenizer import PrologueConfig, Tokenizer
from prologue.params import Params, TransformerParams
from prologue.runtime import seed_everything, start_accelerator
from prologue.training.checkpoint import Checkpoints, fingerprint
from prologue.training.image_task import ImageTask
from prologue.training.loop import train
from prologue.training.output import write_curves
from prologue.training.prologue_loss import prologue_loss


def attach_prologue(params: Params, tokenizer: Path, shards: Path, output: Path, curves: Path) -> dict[str, Any]:
    """Learn a prologue for the frozen tokenizer in mode post; hand on any other, or one that has its prologue already.

    Returns the metrics of the stage.
    """
    accelerator = start_accelerator()
    frozen = load_tokenizer(tokenizer)
    if params.prologue.mode != "post" or frozen.prologue_tokens:
        if accelerator.is_main_process:
            with replacing(output) as temporary:
                shutil.copytree(tokenizer, temporary)
            curves.mkdir(parents=True, exist_ok=True)
        return {"attached": False}
    seed_everything(params.seed)
    schedule = params.stage1.model_copy(update={"steps": params.prologue.post.steps})
    task = AttachTask(params, schedule, shards, with_own_prologue(frozen, params), accelerator)
    sections = ("seed", "precision", "data", "augment", "prologue", "stage1")
    inputs = [shards / "manifest.json", tokenizer / "model.safetensors", tokenizer / "config.json"]
    key = fingerprint({name: params.model_dump()[name] for name in sections}, inputs)
    checkpoints = Checkpoints("attach", key)
    measured = train(task, schedule, params.seed, checkpoints, accelerator)
    speed = measured.pop("images_per_second", None)
    if accelerator.is_main_process:
        save_model(output, task.ema.model)
        write_curves(checkpoints.curves, curves)
        checkpoints.clear()
    accelerator.wait_for_everyone()
    assert task.model.prologue_encoder
    assert task.compact_ar
    return {
        "attached": True,
        "parameters": {
            "prologue_encoder": parameter_count(task.model.prologue_encoder),
            "compact_ar": parameter_count(task.compact_ar),
        },
        "images_per_second": speed,
        "val": measured,
    }


def with_own_prologue(tokenizer: Tokenizer, params: Params) -> Tokenizer:
    """Freeze a tokenizer and give it a trainable prologue with its own encoder."""
    tokenizer.requires_grad_(False)
    own = params.prologue
    encoder = TransformerParams(layers=own.post.layers, dim=own.post.dim)
    tokenizer.attach_prologue(PrologueConfig(tokens=own.tokens, codebook=own.codebook, tau=own.tau, encoder=encoder))
    return tokenizer


class AttachTask(ImageTask):
    """Trains the prologue's encoder and quantizer and the compact AR model; everything visual stays frozen."""

    def step(self, step: int, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """One update of the prologue and of the compact AR model."""
        assert self.compact_ar is not None
        images = batch[0].to(self.accelerator.device)
        self.set_learning_rates(step)
        with self.autocast():
            output = self.tokenizer(images)
            weight, drop = self.params.prologue.ar_weight, self.drop_visual(step)
            loss = prologue_loss(self.ar, self.compact_ar, output, weight, drop).total
        self.accelerator.backward(loss)
        self.update("tokenizer", "compact_ar")
        self.ema.update(self.model)
        return {"ar_loss": loss.detach()}
