"""Stage 1: the tokenizer, alone or jointly with its prologue and a compact AR model (Sec. 2, App. E)."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from prologue.interop.import_tokenizer import import_tokenizer
from prologue.models.discriminator import Discriminator
from prologue.models.export import parameter_count, save_model
from prologue.models.tokenizer import PrologueConfig, Tokenizer, TokenizerConfig, TokenizerOutput
from prologue.params import Params, TokenizerSize
from prologue.runtime import seed_everything, start_accelerator
from prologue.training.adversarial import LeCam, discriminator_loss, generator_loss, r1_penalty
from prologue.training.checkpoint import Checkpoints, fingerprint
from prologue.training.image_task import TOKENIZER_BETAS, ImageTask
from prologue.training.loop import train
from prologue.training.output import write_curves
from prologue.training.perceptual import PerceptualLoss
from prologue.training.prologue_loss import prologue_loss

DISCRIMINATOR_WEIGHT_DECAY = 1e-4


def make_tokenizer(params: Params, shards: Path, output: Path, curves: Path) -> dict[str, Any]:
    """Train the tokenizer, or import it, as `tokenizer.source` says; returns the metrics of the stage."""
    make = import_tokenizer if params.tokenizer.source == "published" else train_tokenizer
    return make(params, shards, output, curves)


def train_tokenizer(params: Params, shards: Path, output: Path, curves: Path) -> dict[str, Any]:
    """Train the Stage-1 tokenizer on shards and export its EMA weights to `output`.

    Returns the metrics of the stage: parameters, steps, images per second, last validation.
    """
    accelerator = start_accelerator()
    seed_everything(params.seed)
    task = TokenizerTask(params, shards, Tokenizer(tokenizer_config(params)), accelerator)
    sections = ("seed", "precision", "data", "augment", "tokenizer", "prologue", "stage1")
    key = fingerprint({name: params.model_dump()[name] for name in sections}, [shards / "manifest.json"])
    checkpoints = Checkpoints("tokenizer", key)
    measured = train(task, params.stage1, params.seed, checkpoints, accelerator)
    speed = measured.pop("images_per_second", None)
    if accelerator.is_main_process:
        save_model(output, task.ema.model)
        write_curves(checkpoints.curves, curves)
        checkpoints.clear()
    accelerator.wait_for_everyone()
    return {
        "parameters": {name: parameter_count(module) for name, module in task.parts().items()},
        "steps": params.stage1.steps,
        "images_per_second": speed,
        "val": measured,
    }


def tokenizer_config(params: Params) -> TokenizerConfig:
    """The Stage-1 tokenizer: with a prologue in mode joint, without one in the other modes."""
    own = params.prologue
    prologue = PrologueConfig(tokens=own.tokens, codebook=own.codebook, tau=own.tau, encoder=None)
    return TokenizerConfig(
        image_size=params.data.image_size,
        tokenizer=TokenizerSize(**params.tokenizer.model_dump(exclude={"source", "path"})),
        prologue=prologue if own.mode == "joint" else None,
    )


class TokenizerTask(ImageTask):
    """Alternating steps on one batch: encoder and decoder with all losses, then discriminator and compact AR model."""

    def __init__(self, params: Params, shards: Path, tokenizer: Tokenizer, accelerator: Accelerator) -> None:
        super().__init__(params, params.stage1, shards, tokenizer, accelerator)
        self.perceptual: PerceptualLoss | None = None
        if self.schedule.perceptual and self.schedule.perceptual_network != "none":
            self.perceptual = PerceptualLoss(self.schedule.perceptual_network).to(accelerator.device)
        self.discriminator: nn.Module | None = None
        if self.schedule.adversarial:
            own = Discriminator(self.schedule.discriminator).to(accelerator.device)
            self.lecam = LeCam().to(accelerator.device)
            self.state.modules |= {"discriminator": own, "lecam": self.lecam}
            self.discriminator = accelerator.prepare(own)
            self.optimize("discriminator", own, TOKENIZER_BETAS, DISCRIMINATOR_WEIGHT_DECAY)

    def parts(self) -> dict[str, nn.Module]:
        """The networks whose parameters are counted in the metrics."""
        parts: dict[str, nn.Module] = {"encoder": self.model.encoder, "decoder": self.model.decoder}
        for name in ("compact_ar", "discriminator"):
            if name in self.state.modules:
                parts[name] = self.state.modules[name]
        return parts

    def step(self, step: int, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """One alternating step; returns the unweighted losses."""
        images = batch[0].to(self.accelerator.device)
        self.set_learning_rates(step)
        losses, reconstruction = self._update_tokenizer(step, images)
        if self.discriminator is not None:
            losses |= self._update_discriminator(step, to_signed(images), reconstruction)
        self.ema.update(self.model)
        return losses

    def _update_tokenizer(self, step: int, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Step (a), and the compact AR model's half of step (b); returns losses and the detached reconstruction."""
        with self.autocast():
            output = self.tokenizer(images)
            losses = self._reconstruction_losses(output, to_signed(images))
            if self.compact_ar is not None:
                weight, drop = self.params.prologue.ar_weight, self.drop_visual(step)
                losses["ar_loss"] = (prologue_loss(self.ar, self.compact_ar, output, weight, drop).total, 1.0)
        total = torch.stack([weight * loss for loss, weight in losses.values()]).sum()
        self.accelerator.backward(total)
        self.update("tokenizer", *(["compact_ar"] if self.compact_ar is not None else []))
        return {name: loss.detach() for name, (loss, _) in losses.items()}, output.reconstruction.detach()

    def _reconstruction_losses(self, output: TokenizerOutput, targets: Tensor) -> dict[str, tuple[Tensor, float]]:
        """Each loss of the visual pathway with its weight."""
        reconstruction = output.reconstruction
        losses = {
            "l1": (F.l1_loss(reconstruction, targets), self.schedule.l1),
            "vq": (output.visual.loss, 1.0),
        }
        if self.perceptual is not None:
            losses["perceptual"] = (self.perceptual(reconstruction, targets), self.schedule.perceptual)
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)
            losses["adversarial"] = (generator_loss(self.discriminator(reconstruction)), self.schedule.adversarial)
            self.discriminator.requires_grad_(True)
        return losses

    def _update_discriminator(self, step: int, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Step (b) of the discriminator on the same batch; images float (b, 3, H, W) in [-1, 1]."""
        assert self.discriminator is not None
        with self.autocast():
            real_logits, fake_logits = self.discriminator(real), self.discriminator(fake)
            loss = discriminator_loss(real_logits, fake_logits)
            total = loss + self.schedule.lecam * self.lecam(real_logits, fake_logits)
        if self.schedule.r1 and step % self.schedule.r1_every == 0:
            total = total + self.schedule.r1 * r1_penalty(self.discriminator, real)
        self.accelerator.backward(total)
        self.update("discriminator")
        return {"discriminator": loss.detach()}


def to_signed(images: Tensor) -> Tensor:
    """uint8 images as float in [-1, 1]."""
    return images / 127.5 - 1
