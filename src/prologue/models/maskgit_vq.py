"""MaskGIT's VQGAN [Chang et al. 2022] as 1d-tokenizer has it: no attention, no projection to the codebook."""

from torch import Tensor, nn
from torch.nn import functional as F

from prologue.models.config import MaskGITSize
from prologue.models.imported import ConvDecoder, ConvEncoder, NearestQuantizer

GROUPS, EPSILON = 32, 1e-6


def maskgit_parts(size: MaskGITSize) -> tuple[ConvEncoder, NearestQuantizer, ConvDecoder]:
    """Encoder, quantizer and decoder of a size."""
    quantizer = NearestQuantizer(nn.Identity(), size.codebook, size.code_dim, l2_norm=False)
    decoder = nn.Sequential(MaskGITDecoder(size), nn.Hardtanh(0, 1))  # their decode clips
    return ConvEncoder(MaskGITEncoder(size), size.pixels), quantizer, ConvDecoder(nn.Identity(), decoder, size.pixels)


class MaskGITEncoder(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> (B, code_dim, H / patch, W / patch)."""

    def __init__(self, size: MaskGITSize) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, size.hidden, 3, padding=1, bias=False)
        inputs = [size.hidden, *size.channels[:-1]]
        self.down = nn.ModuleList(
            _level(before, after, size.blocks) for before, after in zip(inputs, size.channels, strict=True)
        )
        last = size.channels[-1]
        self.mid = _level(last, last, size.blocks)
        self.norm_out = nn.GroupNorm(GROUPS, last, EPSILON)
        self.conv_out = nn.Conv2d(last, size.code_dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_in(images)
        for number, level in enumerate(self.down):
            x = level(F.avg_pool2d(x, 2) if number else x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class MaskGITDecoder(nn.Module):
    """(B, code_dim, h, w) -> images (B, 3, h * patch, w * patch), nominally in [0, 1]."""

    def __init__(self, size: MaskGITSize) -> None:
        super().__init__()
        last = size.channels[-1]
        self.conv_in = nn.Conv2d(size.code_dim, last, 3, padding=1)
        self.mid = _level(last, last, size.blocks)
        inputs = [*size.channels[1:], last]
        self.up = nn.ModuleList(  # finest first, as in the encoder, and run from the last
            _level(before, after, size.blocks) for before, after in zip(inputs, size.channels, strict=True)
        )
        self.upsample = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in size.channels[1:])
        self.norm_out = nn.GroupNorm(GROUPS, size.channels[0], EPSILON)
        self.conv_out = nn.Conv2d(size.channels[0], 3, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        x = self.mid(self.conv_in(codes))
        for number in reversed(range(len(self.up))):
            x = self.up[number](x)
            if number:
                x = self.upsample[number - 1](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(x)))


class ResidualBlock(nn.Module):
    """Two convolutions; where they change the channels, the shortcut is of their own output, not of the input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, inputs, EPSILON)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, outputs, EPSILON)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.nin_shortcut = nn.Conv2d(outputs, outputs, 1, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (x if self.nin_shortcut is None else self.nin_shortcut(y))


def _level(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    """Residual blocks, of which the first changes the channels."""
    return nn.Sequential(*(ResidualBlock(inputs if not block else outputs, outputs) for block in range(blocks)))
