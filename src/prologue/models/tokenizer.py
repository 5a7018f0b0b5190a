"""The tokenizer: encoder, quantizers, decoder (Sec. 2). Systems differ by configuration, not by code paths."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from prologue.models.config import MaskGITSize, PrologueConfig, TiTokSize, TokenizerConfig, VQModelSize
from prologue.models.imported import ConvDecoder, ConvEncoder, NearestQuantizer, vq_model_parts
from prologue.models.maskgit_vq import maskgit_parts
from prologue.models.quantizers import PrologueQuantizer, QuantizedVisual, VisualQuantizer
from prologue.models.titok import TiTokDecoder, TiTokEncoder, titok_parts
from prologue.models.vit import ImageDecoder, ImageEncoder, PrologueEncoder, grid_positions, line_positions
from prologue.models.vocabulary import Vocabulary

Encoder = ImageEncoder | ConvEncoder | TiTokEncoder
Decoder = ImageDecoder | ConvDecoder | TiTokDecoder


class Tokens(NamedTuple):
    """Ids of a batch, each in its own codebook: prologue (B, Np) or None, visual (B, Nv); int64."""

    prologue: Tensor | None
    visual: Tensor

    def named(self) -> dict[str, Tensor]:
        """The segments that there are, by name."""
        own = {} if self.prologue is None else {"prologue": self.prologue}
        return own | {"visual": self.visual}


def join_tokens(parts: list[Tokens]) -> Tokens:
    """The ids of several batches as one."""
    prologues = [part.prologue for part in parts if part.prologue is not None]
    return Tokens(torch.cat(prologues) if prologues else None, torch.cat([part.visual for part in parts]))


class EncoderFeatures(NamedTuple):
    """Encoder outputs before the quantizers: visual (B, Nv, dim), prologue (B, Np, dim) or None."""

    visual: Tensor
    prologue: Tensor | None


class TokenizerOutput(NamedTuple):
    """What training needs: reconstruction (B, 3, H, W), quantized visual tokens, prologue one-hots (B, Np, Kp)."""

    reconstruction: Tensor | None
    visual: QuantizedVisual
    prologue: Tensor | None


class Tokenizer(nn.Module):
    """Image to visual ids (trained to reconstruct) and prologue ids (trained by the AR model), and back.

    Images enter as uint8 (B, 3, H, W) and leave as float in [-1, 1]. The tokenizer never sees the class.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.visual_tokens = config.visual_tokens
        self.encoder, self.visual_quantizer, self.decoder = visual_parts(config)
        self.prologue_encoder: PrologueEncoder | None = None
        self.prologue_quantizer: PrologueQuantizer | None = None
        if config.prologue:
            self.attach_prologue(config.prologue)

    def attach_prologue(self, prologue: PrologueConfig) -> None:
        """Add the prologue's quantizer and, for Prologue-Post, its own encoder over the visual features (Sec. 2.3)."""
        self.config = self.config.model_copy(update={"prologue": prologue})
        dim = self.config.feature_dim
        if prologue.encoder:
            one_d = self.config.tokenizer.layout == "1d"
            positions = line_positions(self.visual_tokens) if one_d else grid_positions(self.config.grid)
            self.prologue_encoder = PrologueEncoder(prologue.encoder, dim, positions, prologue.tokens)
            dim = prologue.encoder.dim
        code_dim = self.config.tokenizer.code_dim
        self.prologue_quantizer = PrologueQuantizer(dim, code_dim, prologue.codebook, prologue.tau)

    @property
    def prologue_tokens(self) -> int:
        """Prologue tokens per image; 0 without a prologue."""
        return self.config.prologue.tokens if self.config.prologue else 0

    @property
    def prologue_codebook(self) -> int:
        """Prologue codes; 0 without a prologue."""
        return self.config.prologue.codebook if self.config.prologue else 0

    @property
    def codebooks(self) -> dict[str, int]:
        """Number of codes of each codebook, by its name: visual, and prologue where there is one."""
        sizes = {"visual": self.config.tokenizer.codebook, "prologue": self.prologue_codebook}
        return {name: codes for name, codes in sizes.items() if codes}

    def vocabulary(self, classes: int) -> Vocabulary:
        """The vocabulary of an AR model over this tokenizer's ids and `classes` classes."""
        return Vocabulary(
            visual_codebook=self.config.tokenizer.codebook,
            prologue_codebook=self.prologue_codebook,
            visual_tokens=self.visual_tokens,
            prologue_tokens=self.prologue_tokens,
            classes=classes,
        )

    def encoder_features(self, images: Tensor) -> EncoderFeatures:
        """Features before the quantizers of images uint8 (B, 3, H, W)."""
        visual, shared = self.encoder(to_signed(images))
        if self.prologue_encoder is not None:
            return EncoderFeatures(visual, self.prologue_encoder(visual))
        return EncoderFeatures(visual, shared if self.prologue_quantizer is not None else None)

    def forward(self, images: Tensor, reconstruct: bool = True, routed_tau: float | None = None) -> TokenizerOutput:
        """Training pass of images uint8 (B, 3, H, W); `routed_tau` as in `VisualQuantizer`."""
        features = self.encoder_features(images)
        visual = self.visual_quantizer(features.visual, routed_tau)
        prologue = None
        if self.prologue_quantizer is not None and features.prologue is not None:
            prologue = self.prologue_quantizer(features.prologue)
        return TokenizerOutput(self.decoder(visual.vectors) if reconstruct else None, visual, prologue)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tokens:
        """Ids of images uint8 (B, 3, H, W)."""
        features = self.encoder_features(images)
        visual = self.visual_quantizer.encode(features.visual)
        if self.prologue_quantizer is None or features.prologue is None:
            return Tokens(None, visual)
        return Tokens(self.prologue_quantizer.encode(features.prologue), visual)

    @torch.no_grad()
    def decode(self, visual: Tensor) -> Tensor:
        """Images of visual ids (B, Nv): float (B, 3, H, W), nominally in [-1, 1], not clipped."""
        images: Tensor = self.decoder(self.visual_quantizer.vectors(visual))
        return images


def visual_parts(config: TokenizerConfig) -> tuple[Encoder, VisualQuantizer | NearestQuantizer, Decoder]:
    """Encoder, visual quantizer and decoder: our own, or those of another project's tokenizer."""
    size, grid = config.tokenizer, config.grid
    if isinstance(size, VQModelSize):
        return vq_model_parts(size)
    if isinstance(size, MaskGITSize):
        return maskgit_parts(size)
    if isinstance(size, TiTokSize):
        return titok_parts(size)
    shared = config.prologue.tokens if config.prologue and not config.prologue.encoder else 0
    quantizer = VisualQuantizer(size.encoder.dim, size.code_dim, size.codebook, size.commitment)
    line = config.visual_tokens if size.layout == "1d" else 0
    return ImageEncoder(size, grid, line, shared), quantizer, ImageDecoder(size, grid, line)


def to_signed(images: Tensor) -> Tensor:
    """uint8 images as float in [-1, 1]."""
    return images / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Round float images in [-1, 1] to uint8 as they are saved: clip, scale to 0..255, round to nearest."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
