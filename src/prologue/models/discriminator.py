"""PatchGAN discriminator (reference [Isola et al. 2017]): one logit per overlapping patch."""

from itertools import pairwise

from torch import Tensor, nn

from prologue.params import DiscriminatorParams


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
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(channels[-1], 1, 4, stride=1, padding=1))
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, mean=1.0, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits
