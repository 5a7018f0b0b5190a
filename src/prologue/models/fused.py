"""Operations of a transformer block that read and write memory once on a CPU, and PyTorch's own ones elsewhere.

Each has a fused form (kernels.cpp, forward and backward) and the plain one that it equals up to rounding.
"""

from ctypes import c_int64
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from prologue.core.conventions import HEAD_DIM
from prologue.models import kernels

EPSILON = 1e-24  # only keeps an all-zero vector finite: the norm itself has none


def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    """x / |x|_2 * sqrt(dim) * scale over the last axis: fp32 (..., dim), scale (dim,) -> like x."""
    if x.dtype == scale.dtype == torch.float32 and kernels.usable(x, scale):
        result: Tensor = _RMSNorm.apply(x, scale)
        return result
    return F.rms_norm(x, scale.shape, scale, eps=EPSILON)


def heads(qkv: Tensor, rotary: Tensor, q_scale: Tensor, k_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys RMS-normed per head and rotated, and values: qkv (B, T, 3 dim) -> three of (B, heads, T, 64).

    rotary (T, 32, 2) turns the adjacent channel pairs (2k, 2k + 1); scales (64,). Raises ValueError where T differs.
    """
    if len(rotary) != qkv.shape[1]:
        raise ValueError(f"{qkv.shape[1]} tokens, but positions of {len(rotary)}")
    if rotary.dtype == q_scale.dtype == k_scale.dtype == torch.float32 and kernels.usable(qkv, rotary, q_scale):
        q, k, v = _Heads.apply(qkv, rotary.contiguous(), q_scale, k_scale)
        return q, k, v
    q, k, v = qkv.unflatten(-1, (3, -1, HEAD_DIM)).transpose(1, 3).unbind(2)  # (B, heads, T, 64)
    q = rotate(rms_norm(q.float(), q_scale), rotary).to(v.dtype)
    k = rotate(rms_norm(k.float(), k_scale), rotary).to(v.dtype)
    return q, k, v


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate adjacent channel pairs (2k, 2k + 1): x fp32 (B, heads, T, 64), rotary (T, 32, 2) -> like x."""
    pairs = x.unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # compilers fuse real products, and not complex ones
        (a, b), (cos, sin) = pairs.unbind(-1), rotary.unbind(-1)
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotary)).flatten(-2)


def geglu(x: Tensor) -> Tensor:
    """tanh-GELU of the value times the gate: x (..., gate and value of `hidden` each) -> (..., hidden)."""
    if kernels.usable(x):
        result: Tensor = _GEGLU.apply(x)
        return result
    gate, value = x.chunk(2, dim=-1)
    return F.gelu(value, approximate="tanh") * gate


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        x, width = x.contiguous(), x.shape[-1]
        y, factors = torch.empty_like(x), x.new_empty(x.shape[:-1])
        kernels.call("rms_norm", None, x, scale, y, factors, factors.numel(), width)
        ctx.save_for_backward(x, scale, factors)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, scale, factors = ctx.saved_tensors
        dx, parts = torch.empty_like(x), x.new_zeros(kernels.CHUNKS, x.shape[-1])
        kernels.call(
            "rms_norm_backward", None, dy.contiguous(), x, scale, factors, dx, parts, factors.numel(), x.shape[-1]
        )
        return dx, parts.sum(0)


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, rotary: Tensor, q_scale: Tensor, k_scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        qkv, scales = qkv.contiguous(), torch.cat((q_scale, k_scale))
        batch, tokens, count = len(qkv), qkv.shape[1], qkv.shape[2] // (3 * HEAD_DIM)
        factors = scales.new_empty(batch, tokens, 2, count)
        q, k, v = qkv.new_empty(3, batch, count, tokens, HEAD_DIM).unbind()
        write_heads(qkv, rotary, scales, q, k, v, factors)
        ctx.save_for_backward(qkv, rotary, scales, factors)
        return q, k, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        qkv, rotary, scales, factors = ctx.saved_tensors
        dqkv, parts = torch.empty_like(qkv), scales.new_zeros(kernels.CHUNKS, 2, HEAD_DIM)
        batch, tokens, _, count = factors.shape
        own = [gradient.contiguous() for gradient in gradients]
        kernels.call("heads_backward", qkv.dtype, *own, qkv, rotary, scales, factors, dqkv, parts, batch, tokens, count)
        return dqkv, None, *parts.sum(0).unbind()


def write_heads(
    qkv: Tensor, rotary: Tensor, scales: Tensor, q: Tensor, k: Tensor, v: Tensor, factors: Tensor | None = None
) -> None:
    """As `heads`, into given tensors (B, heads, T, 64) of any strides but the last: only where the kernels serve.

    scales (128,): of queries, then keys; factors fp32 (B, T, 2, heads) takes the norms' factors.
    """
    strides = (c_int64 * 9)(*(stride for tensor in (q, k, v) for stride in tensor.stride()[:3]))
    batch, count, tokens, _ = q.shape
    kernels.call("heads", qkv.dtype, qkv, rotary, scales, q, k, v, strides, factors, batch, tokens, count)


class _GEGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x, hidden = x.contiguous(), x.shape[-1] // 2
        y = x.new_empty(*x.shape[:-1], hidden)
        kernels.call("geglu", x.dtype, x, y, x.numel() // (2 * hidden), hidden)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        dx, hidden = torch.empty_like(x), x.shape[-1] // 2
        kernels.call("geglu_backward", x.dtype, dy.contiguous(), x, dx, x.numel() // (2 * hidden), hidden)
        return dx
