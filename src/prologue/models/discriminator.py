"""PatchGAN discriminator (reference [Isola et al. 2017]): one logit per overlapping patch."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from prologue.core.params import DiscriminatorParams


class GlobalBatchNorm(nn.Module):
    """Batch norm over the batches of all processes together, on any device; always normalises by the batch at hand."""

    EPS = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W), as large in every process -> like x."""
        if not distributed.is_initialized() or distributed.get_world_size() == 1:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.EPS)
        mean = _mean_of_processes(x.float().mean(dim=(0, 2, 3), keepdim=True))  # (1, C, 1, 1)
        centred = x.float() - mean
        variance = _mean_of_processes(centred.square().mean(dim=(0, 2, 3), keepdim=True))
        scale = self.weight[:, None, None] * (variance + self.EPS).rsqrt()
        return (centred * scale + self.bias[:, None, None]).to(x.dtype)


class _SumOfProcesses(torch.autograd.Function):
    """Sum of a tensor over all processes, to whose gradients flow: the sum of theirs, and so on (for R1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient: Tensor = _SumOfProcesses.apply(gradients[0])
        return gradient


def _mean_of_processes(x: Tensor) -> Tensor:
    total: Tensor = _SumOfProcesses.apply(x)
    return total / distributed.get_world_size()


class Discriminator(nn.Module):
    """Strided 4 x 4 convolutions with batch norm; images float (B, 3, H, W) in [-1, 1] -> logits (B, 1, h, w)."""

    def __init__(self, params: DiscriminatorParams) -> None:
        super().__init__()
        channels = [params.width * min(2**layer, 8) for layer in range(params.layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, channels[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for layer, (before, after) in enumerate(pairwise(channels), start=1):
            stride = 1 if layer == params.layers else 2
            layers += [
                nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=False),
                GlobalBatchNorm(after),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(channels[-1], 1, 4, stride=1, padding=1))
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, GlobalBatchNorm):
                nn.init.normal_(module.weight, mean=1.0, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits.float()  # losses are fp32, whatever the layers compute in
