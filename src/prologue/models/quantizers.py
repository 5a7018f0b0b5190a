"""The two quantizers: nearest code for visual tokens, Prob-STE for prologue tokens."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIMILARITIES = 2**25  # between tokens and codes at once: 128 MB


class Quantizer(nn.Module):
    """Projection to the code space and a codebook; both are compared on the unit sphere."""

    def __init__(self, dim: int, code_dim: int, codes: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(dim, code_dim)
        self.codebook = nn.Embedding(codes, code_dim)
        nn.init.zeros_(self.proj_in.bias)  # a bias would send all images to one code while features are small
        nn.init.normal_(self.codebook.weight, std=1 / math.sqrt(code_dim))

    @property
    def codes(self) -> int:
        """Number of codes."""
        return self.codebook.num_embeddings

    def project(self, features: Tensor) -> Tensor:
        """Unit vectors in the code space, fp32: (..., dim) -> (..., code_dim)."""
        return F.normalize(self.proj_in(features).float(), dim=-1)

    def similarity(self, projected: Tensor) -> Tensor:
        """Dot products with every unit code: (..., code_dim) -> (..., codes)."""
        with torch.autocast(projected.device.type, enabled=False):  # bf16 would flip close calls between codes
            return projected @ F.normalize(self.codebook.weight, dim=-1).T

    def vectors(self, ids: Tensor) -> Tensor:
        """Unit code vectors of ids: (...) -> (..., code_dim)."""
        return F.normalize(self.codebook(ids), dim=-1)

    @torch.no_grad()
    def encode(self, features: Tensor) -> Tensor:
        """Ids of the most similar codes: (..., dim) -> (...), int64."""
        return self.nearest(self.project(features))

    @torch.no_grad()
    def nearest(self, projected: Tensor) -> Tensor:
        """Ids of the most similar codes: (..., code_dim) -> (...), int64."""
        return in_parts(projected, self.codes, lambda part: self.similarity(part).argmax(dim=-1))


def in_parts(vectors: Tensor, codes: int, nearest: Callable[[Tensor], Tensor]) -> Tensor:
    """Ids that `nearest` finds among `codes`: (..., code_dim) -> (...), a part of the vectors after the other.

    So that what compares them with all codes is never larger than `SIMILARITIES` numbers.
    """
    parts = vectors.flatten(0, -2).split(max(1, SIMILARITIES // codes))
    return torch.cat([nearest(part) for part in parts]).view(vectors.shape[:-1])


def prob_ste(similarity: Tensor, tau: float) -> Tensor:
    """Prob-STE (Sec. 2.2): one-hot of the largest forward, gradient of p = softmax(similarity / tau) backward.

    similarity (..., codes), fp32 -> like it.
    """
    p = F.softmax(similarity / tau, dim=-1)
    one_hot = torch.zeros_like(p).scatter_(-1, p.argmax(dim=-1, keepdim=True), 1.0)  # F.one_hot may wait for ids
    return one_hot + p - p.detach()


@dataclass(frozen=True)
class QuantizedVisual:
    """Visual tokens: straight-through vectors (B, Nv, code_dim), ids (B, Nv), the VQ loss.

    Where an AR gradient is routed to them also one-hots (B, Nv, codes) that carry it.
    """

    vectors: Tensor
    ids: Tensor
    loss: Tensor
    one_hots: Tensor | None


class VisualQuantizer(Quantizer):
    """L2-normed VQ: nearest code, straight-through gradient in the code space (Sec. 2, reference [Yu et al. 2022])."""

    def __init__(self, dim: int, code_dim: int, codes: int, commitment: float) -> None:
        super().__init__(dim, code_dim, codes)
        self.commitment = commitment

    def forward(self, features: Tensor, routed_tau: float | None = None) -> QuantizedVisual:
        """features (B, Nv, dim) -> quantized; loss = mean |q - sg(z)|^2 + commitment * mean |z - sg(q)|^2.

        With `routed_tau` the tokens also pass Prob-STE, so that an AR gradient reaches them (Fig. 5).
        """
        z = self.project(features)
        one_hots = None if routed_tau is None else prob_ste(self.similarity(z), routed_tau)
        ids = self.nearest(z) if one_hots is None else one_hots.argmax(dim=-1)
        q = self.vectors(ids)
        loss = F.mse_loss(q, z.detach()) + self.commitment * F.mse_loss(z, q.detach())
        return QuantizedVisual(z + (q - z).detach(), ids, loss, one_hots)


class PrologueQuantizer(Quantizer):
    """Prob-STE with temperature tau; no quantizer loss."""

    def __init__(self, dim: int, code_dim: int, codes: int, tau: float) -> None:
        super().__init__(dim, code_dim, codes)
        self.tau = tau

    def forward(self, features: Tensor) -> Tensor:
        """features (B, Np, dim) -> one-hots (B, Np, codes), fp32, that carry the gradient."""
        return prob_ste(self.similarity(self.project(features)), self.tau)
