"""Adversarial losses of Stage 1: softplus GAN loss, LeCam regulariser, R1 penalty (Sec. 2, App. E)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LECAM_DECAY = 0.999


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating loss of the generator: mean softplus(-D(fake))."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """mean softplus(-D(real)) + mean softplus(D(fake))."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(discriminator: nn.Module, images: Tensor) -> Tensor:
    """Half the mean squared gradient norm of D at real images float (B, 3, H, W)."""
    images = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean() / 2


class LeCam(nn.Module):
    """Keeps D's real and fake logits near the running mean of the other (reference [Tseng et al. 2021])."""

    real_mean: Tensor
    fake_mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("real_mean", torch.zeros(()))
        self.register_buffer("fake_mean", torch.zeros(()))

    def update(self, real: Tensor, fake: Tensor, broken: Tensor) -> None:
        """Move the running means towards the mean logits (scalars) of a step; not where the scalar `broken` is 1."""
        for mean, logits in ((self.real_mean, real), (self.fake_mean, fake)):
            mean.copy_(torch.where(broken > 0, mean, mean.lerp(logits, 1 - LECAM_DECAY)))

    def forward(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Penalty of logits of any shape -> scalar."""
        real = F.relu(real_logits - self.fake_mean).square().mean()
        fake = F.relu(self.real_mean - fake_logits).square().mean()
        return real + fake
