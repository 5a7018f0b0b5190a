"""What imported visual tokenizers are made of: convolutional networks around a codebook, all frozen."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prologue.core.params import Pixels
from prologue.models.config import VQModelSize
from prologue.models.quantizers import QuantizedVisual, in_parts


class ConvEncoder(nn.Module):
    """A convolutional network from images to features, before any projection to the codebook."""

    def __init__(self, network: nn.Module, pixels: Pixels) -> None:
        """`pixels`: the range of the images that the network reads."""
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.pixels = pixels

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images float (B, 3, H, W) in [-1, 1] -> visual (B, Nv, feature_dim) in raster order, none for a prologue."""
        images = from_signed(images, self.pixels).contiguous(memory_format=torch.channels_last)
        features = self.network(images).flatten(2).transpose(1, 2)
        return features, features[:, :0]


class ConvDecoder(nn.Module):
    """Code vectors to images: a projection, then a convolutional network."""

    def __init__(self, projection: nn.Module, network: nn.Module, pixels: Pixels, spatial: bool = False) -> None:
        """`spatial`: the network's norms read the code vectors too (MoVQ)."""
        super().__init__()
        self.projection, self.spatial = projection, spatial
        self.network = network.to(memory_format=torch.channels_last)
        self.pixels = pixels

    def forward(self, codes: Tensor) -> Tensor:
        """Code vectors (B, Nv, code_dim) of a square grid -> images float (B, 3, H, W), nominally in [-1, 1]."""
        x = to_grid(self.projection(codes))
        return to_signed_range(self.network(x, to_grid(codes)) if self.spatial else self.network(x), self.pixels)


class NearestQuantizer(nn.Module):
    """Nearest code by Euclidean distance, on the unit sphere where `l2_norm` says so."""

    def __init__(self, projection: nn.Module, codes: int, code_dim: int, l2_norm: bool) -> None:
        """`projection`: from features (B, Nv, feature_dim) to the codebook's space."""
        super().__init__()
        self.projection, self.l2_norm = projection, l2_norm
        self.codebook = nn.Embedding(codes, code_dim)

    @property
    def codes(self) -> int:
        """Number of codes."""
        return self.codebook.num_embeddings

    def vectors(self, ids: Tensor) -> Tensor:
        """Code vectors of ids, as the decoder reads them: (...) -> (..., code_dim)."""
        return self._normed(self.codebook(ids))

    @torch.no_grad()
    def encode(self, features: Tensor) -> Tensor:
        """Ids of the nearest codes: (B, Nv, feature_dim) -> (B, Nv), int64."""
        with torch.autocast(features.device.type, enabled=False):  # bf16 would flip close calls between codes
            z, codes = self._normed(self.projection(features.float())), self._normed(self.codebook.weight)
            squares = codes.square().sum(dim=1)
            # distances less |z|^2
            return in_parts(z, self.codes, lambda part: torch.addmm(squares, part, codes.T, alpha=-2).argmin(dim=1))

    def forward(self, features: Tensor, routed_tau: float | None = None) -> QuantizedVisual:
        """features (B, Nv, feature_dim) -> quantized, without gradients: the tokenizer is frozen."""
        ids = self.encode(features)
        return QuantizedVisual(self.vectors(ids), ids, torch.zeros((), device=ids.device), None)

    def _normed(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.l2_norm else vectors


def to_grid(tokens: Tensor) -> Tensor:
    """(B, side * side, channels) in raster order -> (B, channels, side, side), channels last in memory."""
    side = math.isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).unflatten(2, (side, side)).contiguous(memory_format=torch.channels_last)


def from_signed(images: Tensor, pixels: Pixels) -> Tensor:
    """Images in [-1, 1] in the range that a network reads."""
    return (images + 1) / 2 if pixels == "unit" else images


def to_signed_range(images: Tensor, pixels: Pixels) -> Tensor:
    """Images of a network's own range in [-1, 1]."""
    return images * 2 - 1 if pixels == "unit" else images


def vq_model_parts(size: VQModelSize) -> tuple[ConvEncoder, NearestQuantizer, ConvDecoder]:
    """Encoder, quantizer and decoder of taming's VQGAN, LlamaGen's, or a folder of diffusers: one network.

    It is diffusers' `VQModel`.
    """
    from diffusers import VQModel  # takes seconds to import, and only these tokenizers need it

    model: Any = VQModel.from_config(size.vq_model)
    quantizer = NearestQuantizer(nn.Linear(size.feature_dim, size.code_dim), size.codebook, size.code_dim, size.l2_norm)
    spatial = model.config["norm_type"] == "spatial"
    decoder = ConvDecoder(nn.Linear(size.code_dim, size.feature_dim), model.decoder, size.pixels, spatial)
    return ConvEncoder(model.encoder, size.pixels), quantizer, decoder
