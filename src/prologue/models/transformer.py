"""The transformer of every part: encoder, decoder, prologue encoder and AR models.

Pre-RMSNorm blocks of self-attention and GEGLU, each residual branch gated per channel (LayerScale), heads of 64
channels with RMS-normed queries and keys, rotary positions on three axes. No absolute positions.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from prologue.core.conventions import HEAD_DIM
from prologue.models.dropout import RowDropout
from prologue.models.fused import geglu, heads, rms_norm

CACHED_SCORES = 2_000_000  # attention scores of one layer that a CPU still handles best as one matrix
GATE_INIT = 0.1  # residual branches start nearly closed


class RMSNorm(nn.Module):
    """x / |x|_2 * sqrt(dim) * scale over the last axis, computed in fp32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x.float(), self.scale)


@dataclass(frozen=True)
class RotaryAxes:
    """Head channels and base frequency of each of the three position axes; the channels sum to 64."""

    dims: tuple[int, int, int]
    thetas: tuple[float, float, float]

    def angles(self, positions: Tensor) -> Tensor:
        """Rotation angles of each channel pair: positions (T, 3) -> (T, 32), fp32."""
        angles = []
        for axis, (dim, theta) in enumerate(zip(self.dims, self.thetas, strict=True)):
            frequencies = theta ** -(torch.arange(0, dim, 2, dtype=torch.float32) / dim)
            angles.append(positions[:, axis, None].float() * frequencies)
        return torch.cat(angles, dim=-1)

    def rotations(self, positions: Tensor) -> Tensor:
        """Unit complex numbers that turn channel pairs: positions (T, 3) -> real view (T, 32, 2)."""
        angles = self.angles(positions)
        return torch.stack((angles.cos(), angles.sin()), dim=-1)


class GatedLinear(nn.Linear):
    """Output layer of a residual branch, gated per channel (LayerScale); the gate scales the few weights."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, outputs, bias)
        self.gate = nn.Parameter(torch.full((outputs,), GATE_INIT))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self._gated())

    def folded(self) -> nn.Linear:
        """The plain layer that this one is once its weights no longer change."""
        weight, bias = self._gated()
        layer = nn.Linear(self.in_features, self.out_features, bias is not None, device="meta")
        layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
        return layer

    def _gated(self) -> tuple[Tensor, Tensor | None]:
        return self.weight * self.gate[:, None], None if self.bias is None else self.bias * self.gate


class Attention(nn.Module):
    """Self-attention without q/k/v bias; queries and keys are RMS-normed per head, then rotated."""

    def __init__(self, dim: int, bias: bool, dropout: float) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_norm = RMSNorm(HEAD_DIM)
        self.k_norm = RMSNorm(HEAD_DIM)
        self.proj = GatedLinear(dim, dim, bias)
        self.dropout = RowDropout(dropout)

    def heads(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values: x (B, T, dim) -> three of (B, heads, T, 64)."""
        return heads(self.qkv(x), rotary, self.q_norm.scale, self.k_norm.scale)

    def merge(self, heads: Tensor) -> Tensor:
        """Output of the attended values: (B, heads, T, 64) -> (B, T, dim)."""
        return self.dropout(self.proj(heads.transpose(1, 2).flatten(2)))


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Scaled dot-product attention, the way that is fastest on the device: q, k, v (B, heads, T, 64) -> like q.

    On a CPU plain products are, but for fp32 scores that leave the caches; benchmarks/attention_kernels.py measures it.
    """
    scores = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
    if q.device.type != "cpu" or (q.dtype == torch.float32 and scores > CACHED_SCORES):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return attention_weights(q, k, causal) @ v


def attention_weights(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    """What each position takes from every other: q, k (B, heads, T, 64) -> (B, heads, T, T), rows that sum to 1."""
    similarity = (q * HEAD_DIM**-0.5) @ k.transpose(-1, -2)  # (B, heads, T, T)
    if causal:
        similarity = similarity + torch.full_like(similarity[0, 0], -math.inf).triu(1)
    return similarity.softmax(dim=-1)


class FeedForward(nn.Module):
    """GEGLU whose tanh-GELU acts on the value: fc1(x) -> (gate, value); fc2(gelu(value) * gate)."""

    def __init__(self, dim: int, hidden: int, bias: bool, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden, bias=bias)
        self.fc2 = GatedLinear(hidden, dim, bias)
        self.dropout = RowDropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(geglu(self.fc1(x))))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); both branches end in a gate."""

    def __init__(self, dim: int, hidden: int, bias: bool, dropout: float) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(dim)
        self.attention = Attention(dim, bias, dropout)
        self.feed_forward_norm = RMSNorm(dim)
        self.feed_forward = FeedForward(dim, hidden, bias, dropout)

    def forward(self, x: Tensor, rotary: Tensor, causal: bool) -> Tensor:
        return self.finish(x, attend(*self.start(x, rotary), causal))

    def start(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What comes before the attended values: x (B, T, dim) -> queries, keys and values (B, heads, T, 64)."""
        return self.attention.heads(self.attention_norm(x), rotary)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """What comes after them: x (B, T, dim), attended values (B, heads, T, 64) -> (B, T, dim)."""
        x = x + self.attention.merge(attended)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Transformer(nn.Module):
    """A stack of blocks. Tokenizer parts have biases and hidden = round(8/3 dim); AR models none and 11/4 dim.

    Prologue-Post's prologue encoder has biases and hidden = 11/4 dim.
    """

    def __init__(self, layers: int, dim: int, hidden: int, bias: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.recompute = False  # activations backward instead of keeping them
        self.blocks = nn.ModuleList(Block(dim, hidden, bias, dropout) for _ in range(layers))
        for name, parameter in self.named_parameters():
            if name.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight")):
                nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[1]))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, rotary: Tensor, causal: bool = False) -> Tensor:
        """x (B, T, dim), rotary (T, 32, 2) -> (B, T, dim), fp32 residual stream."""
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, rotary, causal, use_reentrant=False)
            else:
                x = block(x, rotary, causal)
        return x


def tokenizer_hidden(dim: int) -> int:
    """Feed-forward width of the tokenizer's encoder and decoder."""
    return round(dim * 8 / 3)


def ar_hidden(dim: int) -> int:
    """Feed-forward width of the AR models and of Prologue-Post's prologue encoder."""
    return dim * 11 // 4


def is_gate_or_norm(name: str) -> bool:
    """Whether a parameter name is a residual gate or a norm scale (published: maps of a constant, so faster-moving)."""
    return name.endswith((".gate", "norm.scale"))
