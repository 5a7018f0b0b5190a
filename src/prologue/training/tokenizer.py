"""Stage 1: the tokenizer, alone or jointly with an AR model (Sec. 2, App. E)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL.Image import Image
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from prologue.core.runtime import seed_everything, start_accelerator
from prologue.core.work import origin_of
from prologue.frozen.perceptual import PerceptualLoss
from prologue.models.config import TokenizerConfig
from prologue.models.discriminator import Discriminator
from prologue.models.saved import parameter_count
from prologue.models.tokenizer import Tokenizer, to_signed
from prologue.training.adversarial import LeCam, discriminator_loss, generator_loss, r1_penalty
from prologue.training.image_task import TOKENIZER_BETAS, ImageBatch, ImageTask
from prologue.training.output import run_training, save_tokenizer
from prologue.training.plan import TrainingPlan
from prologue.training.prepare import prepare

DISCRIMINATOR_WEIGHT_DECAY = 1e-4
ImageLoss = Callable[[Tensor, Tensor], Tensor]  # of reconstructions and their targets, a scalar


def train_tokenizer(
    plan: TrainingPlan, shards: Path, output: Path, curves: Path, draw: Callable[[Tokenizer], Image] | None
) -> dict[str, Any]:
    """Train the planned tokenizer on shards and export its EMA weights to `output`, an AR model's beside them.

    `draw` makes the picture of a validation. Returns the metrics of the stage: parameters, steps, speed, memory of the
    training state, last validation.
    """
    accelerator = start_accelerator()
    seed_everything(plan.seed)
    task = TokenizerTask(plan, shards, Tokenizer(tokenizer_config(plan)), accelerator)
    origin = origin_of(plan.model_dump(mode="json"), [shards / "manifest.json"], __file__)
    save = partial(save_tokenizer, output, task.ema.model, task.joint_ar)
    picture = partial(draw, task.ema.model) if draw else None
    metrics = run_training("tokenizer", task, plan.stage1, plan.seed, origin, accelerator, curves, save, picture)
    counts = {name: parameter_count(module) for name, module in task.parts().items()}
    return {"parameters": counts, "precision": plan.precision, **metrics}


def tokenizer_config(plan: TrainingPlan) -> TokenizerConfig:
    """What Stage 1 builds."""
    assert plan.tokenizer is not None
    return TokenizerConfig(image_size=plan.image_size, tokenizer=plan.tokenizer, prologue=plan.prologue)


def mean_distance(distance: PerceptualLoss, fake: Tensor, real: Tensor) -> Tensor:
    """Mean perceptual distance of a batch."""
    mean: Tensor = distance(fake, real).mean()
    return mean


class TokenizerTask(ImageTask):
    """Alternating steps on one batch: encoder and decoder with all losses, then discriminator and AR model."""

    def __init__(self, plan: TrainingPlan, shards: Path, tokenizer: Tokenizer, accelerator: Accelerator) -> None:
        super().__init__(plan, shards, tokenizer, accelerator)
        self.image_losses: dict[str, tuple[ImageLoss, float]] = {"l1": (F.l1_loss, self.params.l1)}
        for name, weight in self.params.perceptual:
            if weight:
                distance = PerceptualLoss(name).to(accelerator.device)
                self.image_losses[f"perceptual_{name}"] = (partial(mean_distance, distance), weight)
        self.discriminator: Discriminator | None = None
        if self.params.adversarial:
            self._add_discriminator()

    def _add_discriminator(self) -> None:
        self.discriminator = Discriminator(self.params.discriminator).to(self.accelerator.device)
        self.lecam = LeCam().to(self.accelerator.device)
        self.logit_means = torch.zeros(2, device=self.accelerator.device)  # of a step's real and fake images
        self.state.modules |= {"discriminator": self.discriminator, "lecam": self.lecam}
        self.discriminate = prepare(self.discriminator, self.accelerator)
        self.wrapped.append(self.discriminate)
        self.optimize("discriminator", self.discriminator, TOKENIZER_BETAS, DISCRIMINATOR_WEIGHT_DECAY)
        self.image_losses["adversarial"] = (self._adversarial, self.params.adversarial)

    def parts(self) -> dict[str, nn.Module]:
        """The networks whose parameters are counted in the metrics."""
        parts: dict[str, nn.Module] = {"encoder": self.model.encoder, "decoder": self.model.decoder}
        for name in ("joint_ar", "discriminator"):
            if name in self.state.modules:
                parts[name] = self.state.modules[name]
        return parts

    def part_gradients(self, step: int, part: ImageBatch, fraction: float) -> dict[str, Tensor]:
        """Both halves of an alternating step; neither changes what the other reads before `update`."""
        real = to_signed(part.images)
        losses, fake = self._tokenizer_gradients(part, real, fraction)
        if self.discriminator is not None:
            with self._timed("discriminator"):
                losses |= self._discriminator_gradients(step, real, fake, fraction)
        return losses

    def update(self, step: int, norms: dict[str, Tensor], broken: Tensor) -> None:
        """Also moves LeCam's running means, by the logits of all processes."""
        super().update(step, norms, broken)
        if self.discriminator is not None:
            means = self.accelerator.reduce(self.logit_means, "mean")
            assert isinstance(means, Tensor)
            self.lecam.update(means[0], means[1], broken)
            self.logit_means.zero_()

    def _tokenizer_gradients(self, part: ImageBatch, real: Tensor, fraction: float) -> tuple[dict[str, Tensor], Tensor]:
        """Step (a), and the AR model's half of step (b); returns losses and the detached reconstruction."""
        with self.autocast():
            output = self.tokenizer(part.images, routed_tau=self.plan.joint_ar and self.plan.joint_ar.routed_tau)
            own = {"vq": output.visual.loss}
            if self.joint_ar is not None:
                own["ar_loss"] = self.joint_ar_loss(output, part)
        losses, gradient = self._image_losses(output.reconstruction, real)
        total = torch.stack([*own.values(), (output.reconstruction * gradient).sum()]).sum()
        self.accelerator.backward(fraction * total)
        self.count_codes(output)
        return losses | own, output.reconstruction.detach()

    def _image_losses(self, fake: Tensor, real: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Losses of the reconstruction, and the gradient of their weighted sum, like it.

        They go backward by themselves, so that it is known what the networks cost that are no part of the product.
        """
        images, losses = fake.detach().requires_grad_(True), {}
        for name, (loss, weight) in self.image_losses.items():
            with self._timed("discriminator" if name == "adversarial" else name):
                with self.autocast():
                    losses[name] = loss(images, real)
                (weight * losses[name]).backward()
        assert images.grad is not None
        return losses, images.grad

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        """Add the seconds of a part to what is spent on it; not on a device that goes on while Python does."""
        began = time.perf_counter()
        yield
        if self.accelerator.device.type == "cpu":
            self.spent[part] = self.spent.get(part, 0.0) + time.perf_counter() - began

    def _adversarial(self, fake: Tensor, real: Tensor) -> Tensor:
        """Loss of the reconstruction by the discriminator, through which gradients flow to the images alone."""
        assert self.discriminator is not None
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        return generator_loss(functional_call(self.discriminator, frozen, (fake,)))

    def _discriminator_gradients(self, step: int, real: Tensor, fake: Tensor, fraction: float) -> dict[str, Tensor]:
        """Step (b) of the discriminator on the same images, float (b, 3, H, W) in [-1, 1]."""
        assert self.discriminator is not None
        with self.autocast():
            real_logits, fake_logits = self.discriminate(real), self.discriminate(fake)
            loss = discriminator_loss(real_logits, fake_logits)
            total = loss + self.params.lecam * self.lecam(real_logits, fake_logits)
        if self.params.r1 and step % self.params.r1_every == 0:
            total = total + self.params.r1 * r1_penalty(self.discriminator, real)
        self.accelerator.backward(fraction * total)
        self.logit_means += fraction * torch.stack(
            (real_logits.detach().float().mean(), fake_logits.detach().float().mean())
        )
        return {"discriminator": loss}
