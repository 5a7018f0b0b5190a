"""Features of images by a frozen network: what distances between sets of images are made of."""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from prologue.core.errors import PrologueError
from prologue.frozen.networks import efficientnet_lite, inception, lite_input

LITE_SIZE = 128  # px; part of the protocol: distances at another size are not comparable


class Extractor:
    """A frozen network that turns images into features; `name` is part of every metric's name.

    lite2: EfficientNet-Lite2 (1280 features, 1000 ImageNet logits); its images are resized to 128 x 128 px, bicubic,
    antialiased, clipped to 0..255. inception: Inception 2015-12-05 as in TensorFlow's FID (2048 features, 1008 logits
    without bias), which resizes to 299 x 299 px.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        """Raises PrologueError where the network's weights are missing."""
        self.name = name
        self.device = torch.device(device)
        self.network = (efficientnet_lite("lite2") if name == "lite2" else inception()).to(self.device)

    @torch.no_grad()
    def __call__(self, images: Sequence[Tensor] | Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features (N, D) and logits (N, C) of uint8 images (3, H, W), of one size or of many.

        Raises PrologueError for any other type or shape.
        """
        for image in images:
            if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
                raise PrologueError(f"features need images uint8 (3, H, W), got {image.dtype} {tuple(image.shape)}")
        groups = [torch.stack(list(same)).to(self.device) for _, same in groupby(images, lambda image: image.shape)]
        if self.name == "inception":
            pools, logits = zip(*(self.network(group) for group in groups), strict=True)
            return torch.cat(pools), torch.cat(logits)
        size = (LITE_SIZE, LITE_SIZE)
        resized = [F.interpolate(group.float(), size=size, mode="bicubic", antialias=True) for group in groups]
        maps = self.network.forward_features(lite_input(torch.cat(resized).clamp(0, 255)))  # (N, 1280, 4, 4)
        pool = self.network.global_pool(maps)
        return pool, self.network.classifier(pool)

    @property
    def protocol(self) -> dict[str, str]:
        """What a reader must know to compare numbers of this extractor."""
        seen = f"{LITE_SIZE} px, bicubic, antialiased" if self.name == "lite2" else "299 px, bilinear as TensorFlow 1"
        return {"extractor": self.name, "extractor_input": seen}
