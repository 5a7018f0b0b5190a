"""The parts of a tokenizer made of diffusers' `VQModel`, a convolutional VQGAN of another project, frozen."""

from typing import Any

import torch
from torch import Tensor, nn

from prologue.core.errors import PrologueError
from prologue.models.config import VQModelSize
from prologue.models.quantizers import QuantizedVisual


def build_vq_model(size: VQModelSize) -> Any:
    """The library's model of a config, with random weights. Raises PrologueError where diffusers is not installed."""
    try:
        from diffusers import VQModel  # takes seconds to import, and only these tokenizers need it
    except ImportError:
        raise PrologueError("this tokenizer is a diffusers VQModel: run `pip install diffusers`") from None
    return VQModel.from_config(size.vq_model)


class VQModelEncoder(nn.Module):
    """Images to the features before `quant_conv`."""

    def __init__(self, model: Any, size: VQModelSize) -> None:
        super().__init__()
        self.network = model.encoder
        self.unit = size.pixels == "unit"

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images float (B, 3, H, W) in [-1, 1] -> visual (B, Nv, feature_dim), and nothing for a prologue."""
        features = self.network((images + 1) / 2 if self.unit else images)  # (B, feature_dim, h, w)
        features = features.flatten(2).transpose(1, 2)
        return features, features[:, :0]


class VQModelQuantizer(nn.Module):
    """Nearest code by Euclidean distance after `quant_conv`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.quant_conv = model.quant_conv
        self.codebook = model.quantize.embedding

    @property
    def codes(self) -> int:
        """Number of codes."""
        return self.codebook.num_embeddings

    def vectors(self, ids: Tensor) -> Tensor:
        """Code vectors of ids: (...) -> (..., code_dim)."""
        vectors: Tensor = self.codebook(ids)
        return vectors

    @torch.no_grad()
    def encode(self, features: Tensor) -> Tensor:
        """Ids of the nearest codes: (B, Nv, feature_dim) -> (B, Nv), int64."""
        projected = self.quant_conv(features.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
        return torch.cdist(projected.float().flatten(0, 1), self.codebook.weight).argmin(dim=1).view(features.shape[:2])

    def forward(self, features: Tensor, routed_tau: float | None = None) -> QuantizedVisual:
        """features (B, Nv, feature_dim) -> quantized, without gradients: the tokenizer is frozen."""
        ids = self.encode(features)
        return QuantizedVisual(self.vectors(ids), ids, torch.zeros((), device=ids.device), None)


class VQModelDecoder(nn.Module):
    """Code vectors to images."""

    def __init__(self, model: Any, size: VQModelSize, grid: int) -> None:
        super().__init__()
        self.post_quant_conv, self.network = model.post_quant_conv, model.decoder
        self.grid, self.unit = grid, size.pixels == "unit"
        self.spatial = model.config["norm_type"] == "spatial"

    def forward(self, codes: Tensor) -> Tensor:
        """Code vectors (B, Nv, code_dim) -> images float (B, 3, H, W), nominally in [-1, 1]."""
        vectors = codes.transpose(1, 2).unflatten(2, (self.grid, self.grid))  # (B, code_dim, h, w)
        images: Tensor = self.network(self.post_quant_conv(vectors), vectors if self.spatial else None)
        return images * 2 - 1 if self.unit else images
