"""Perceptual distances: how far a reconstruction is from its target for a frozen network."""

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional as F

from prologue.frozen.networks import convnext_small, efficientnet_lite, lite_input, lpips_vgg16


class PerceptualLoss(nn.Module):
    """Perceptual distance of each image of a batch; frozen, and always in eval mode."""

    def __init__(self, network: str) -> None:
        """`network` is lite0, vgg16 or convnext_small. Raises PrologueError where its weights are missing."""
        super().__init__()
        self.distance: nn.Module = DISTANCES[network]().eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "PerceptualLoss":
        """Stay in eval mode: LPIPS has dropout."""
        return super().train(False)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Distances (N,) of float (N, 3, H, W) in [-1, 1]; the gradient flows to `images` only."""
        with torch.autocast(images.device.type, enabled=False):  # depthwise convolutions in bf16: 15 x slower on a CPU
            distance: Tensor = self.distance(images.float(), targets.detach().float())
        return distance


class LiteDistance(nn.Module):
    """As LPIPS without learned weights: unit-normalised EfficientNet-Lite0 feature maps, mean squared distance.

    Images of 32 px and more are seen at their own size, smaller ones enlarged to 32 px.
    """

    STAGES = range(4)  # feature maps of stride 2, 4, 8, 16
    MIN_SIZE = 32

    def __init__(self) -> None:
        super().__init__()
        self.network = efficientnet_lite("lite0")

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        pairs = zip(self._features(images), self._features(targets), strict=True)
        return torch.stack([(a - b).square().sum(dim=1).mean(dim=(1, 2)) for a, b in pairs]).mean(dim=0)

    def _features(self, images: Tensor) -> list[Tensor]:
        """Feature maps (N, C, h, w) of unit vectors, one per stage."""
        if min(images.shape[2:]) < self.MIN_SIZE:
            images = F.interpolate(images, size=(self.MIN_SIZE, self.MIN_SIZE), mode="bilinear", align_corners=False)
        maps = self.network.forward_intermediates(
            lite_input((images + 1) * 127.5), indices=list(self.STAGES), stop_early=True, intermediates_only=True
        )
        assert isinstance(maps, list)
        return [F.normalize(features, dim=1) for features in maps]


class LpipsDistance(nn.Module):
    """LPIPS on VGG16."""

    def __init__(self) -> None:
        super().__init__()
        self.network = lpips_vgg16()

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        distances: Tensor = self.network(images, targets)  # (N, 1, 1, 1)
        return distances.flatten()


class LogitDistance(nn.Module):
    """Mean squared error of ConvNeXt-S logits at 224 px (Large tokenizer, Sec. 3)."""

    SIZE = 224
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network = convnext_small()
        self.register_buffer("mean", torch.tensor(IMAGENET_DEFAULT_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_DEFAULT_STD).view(3, 1, 1))

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        return (self._logits(images) - self._logits(targets)).square().mean(dim=1)

    def _logits(self, images: Tensor) -> Tensor:
        size = (self.SIZE, self.SIZE)
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        logits: Tensor = self.network(((images + 1) / 2 - self.mean) / self.std)  # (N, 1000)
        return logits


DISTANCES: dict[str, type[nn.Module]] = {
    "lite0": LiteDistance,
    "vgg16": LpipsDistance,
    "convnext_small": LogitDistance,
}
