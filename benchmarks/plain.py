"""A plain training loop of the same models, to compare with: fp32, eager, PyTorch's defaults, each half-step apart."""

from collections.abc import Iterator
from contextlib import contextmanager

import timm
import torch
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F

from prologue.core.params import ARParams, Stage1Params
from prologue.frozen.weights import require
from prologue.models import kernels, transformer
from prologue.models.ar import ARModel, SequenceLoss
from prologue.models.discriminator import Discriminator, GlobalBatchNorm
from prologue.models.dropout import RowDropout
from prologue.models.tokenizer import Tokenizer, Tokens
from prologue.training.adversarial import LeCam, discriminator_loss, generator_loss, r1_penalty
from prologue.training.plan import JointARPlan


@contextmanager
def torch_alone() -> Iterator[None]:
    """No kernels of ours, and attention by whichever backend PyTorch picks itself."""
    own = transformer.attend, kernels.library
    transformer.attend = lambda q, k, v, causal: F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    kernels.library = lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        transformer.attend, kernels.library = own


def adamw(module: nn.Module, betas: tuple[float, float], decay: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(module.parameters(), lr=1e-4, betas=betas, weight_decay=decay)


def follow(average: nn.Module, model: nn.Module, decay: float = 0.999) -> None:
    """EMA, a parameter at a time."""
    with torch.no_grad():
        for own, other in zip(average.parameters(), model.parameters(), strict=True):
            own.mul_(decay).add_(other, alpha=1 - decay)


class PlainPerceptual(nn.Module):
    """EfficientNet-Lite0 feature distances, the network as timm builds it."""

    def __init__(self) -> None:
        super().__init__()
        network = timm.create_model("tf_efficientnet_lite0").eval().requires_grad_(False)
        assert isinstance(network, EfficientNet)
        self.network = network
        weights = torch.load(require("lite0"), weights_only=True)
        self.network.load_state_dict(dict(zip(self.network.state_dict(), weights.values(), strict=True)))

    def features(self, images: Tensor) -> list[Tensor]:
        maps = self.network.forward_intermediates(
            ((images + 1) * 127.5 - 127) / 128, indices=[0, 1, 2, 3], stop_early=True, intermediates_only=True
        )
        assert isinstance(maps, list)
        return [F.normalize(features, dim=1) for features in maps]

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        pairs = zip(self.features(images), self.features(targets), strict=True)
        return torch.stack([(a - b).square().sum(dim=1).mean() for a, b in pairs]).mean()


class PlainStage1:
    """Alternating steps written out: the tokenizer, then the discriminator and the AR model on its outputs."""

    def __init__(
        self, params: Stage1Params, joint: JointARPlan, tokenizer: Tokenizer, ar: ARModel, average: Tokenizer
    ) -> None:
        self.params, self.joint, self.tokenizer, self.ar, self.average = params, joint, tokenizer, ar, average
        self.discriminator, self.lecam, self.perceptual = (
            Discriminator(params.discriminator),
            LeCam(),
            PlainPerceptual(),
        )
        for name, module in list(self.discriminator.named_modules()):  # ours is over the batches of all processes
            if isinstance(module, GlobalBatchNorm):
                plain = nn.BatchNorm2d(len(module.weight), track_running_stats=False)
                self.discriminator.set_submodule(name, plain)
        self.tokenizer_optimizer = adamw(tokenizer, (0.0, 0.99), 0.0)
        self.ar_optimizer = adamw(ar, (0.9, 0.99), params.ar_weight_decay)
        self.discriminator_optimizer = adamw(self.discriminator, (0.0, 0.99), 1e-4)

    def step(self, number: int, images: Tensor) -> list[float]:
        params, real = self.params, images / 127.5 - 1
        null = torch.full((len(images),), self.ar.vocabulary.null_class)
        drop = torch.rand(len(images)) < self.joint.visual_dropout
        self.tokenizer_optimizer.zero_grad()
        self.ar.requires_grad_(False)
        self.discriminator.requires_grad_(False)
        output = self.tokenizer(images)
        ids = output.prologue.argmax(-1)
        visual = output.visual.ids
        vocabulary = self.ar.vocabulary
        losses = self.ar.losses(output.prologue, visual, null, drop)
        sequence = SequenceLoss.of(losses, vocabulary).per_token(vocabulary)
        loss = (
            params.l1 * F.l1_loss(output.reconstruction, real)
            + params.perceptual.lite0 * self.perceptual(output.reconstruction, real).mean()
            + params.adversarial * generator_loss(self.discriminator(output.reconstruction))
            + output.visual.loss
            + self.joint.weight * sequence.total
        )
        loss.backward()
        self.tokenizer_optimizer.step()

        self.ar.requires_grad_(True)
        self.discriminator.requires_grad_(True)
        self.ar_optimizer.zero_grad()
        ar_loss = SequenceLoss.of(self.ar.losses(ids, visual, null, drop), vocabulary).per_token(vocabulary).total
        ar_loss.backward()
        self.ar_optimizer.step()

        self.discriminator_optimizer.zero_grad()
        real_logits, fake_logits = self.discriminator(real), self.discriminator(output.reconstruction.detach())
        total = discriminator_loss(real_logits, fake_logits) + params.lecam * self.lecam(real_logits, fake_logits)
        self.lecam.update(real_logits.detach().mean(), fake_logits.detach().mean(), torch.zeros(()))
        if number % params.r1_every == 0:
            total = total + params.r1 * r1_penalty(self.discriminator, real)
        total.backward()
        self.discriminator_optimizer.step()
        follow(self.average, self.tokenizer)
        return [loss.item(), ar_loss.item(), total.item()]


class PlainStage2:
    """Next-token prediction written out."""

    def __init__(self, params: ARParams, ar: ARModel, average: ARModel) -> None:
        self.params, self.ar, self.average = params, ar, average
        for name, module in list(ar.named_modules()):
            if isinstance(module, RowDropout):
                ar.set_submodule(name, nn.Dropout(module.p))
        self.optimizer = adamw(ar, (0.9, 0.96), params.weight_decay)

    def step(self, tokens: Tokens, labels: Tensor) -> float:
        vocabulary = self.ar.vocabulary
        classes = torch.where(torch.rand(len(labels)) < self.params.label_drop, vocabulary.null_class, labels)
        self.optimizer.zero_grad()
        losses = self.ar.losses(tokens.prologue, tokens.visual, classes)
        loss = SequenceLoss.of(losses, vocabulary).per_token(vocabulary).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.ar.parameters(), self.params.clip)
        self.optimizer.step()
        follow(self.average, self.ar)
        return loss.item()
