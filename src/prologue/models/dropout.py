"""Dropout that depends on the sample, not on the batch it is in: the same in any launch and after any resume."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from prologue.models import kernels

SITE_STEP = 0x632BE5AB  # odd constants below 2^31: int32 products wrap
POSITION_STEP = 0x1E3779B1
MIX = (0x7FEB352D, 0x046CA68B)


class RowDropout(nn.Module):
    """Drops each element with probability p and scales the rest by 1 / (1 - p), while training.

    What is dropped of a row follows from the row's key (`key_rows`), the module and the position alone.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.keys = torch.zeros(0, dtype=torch.int32)  # no buffer: those of one process are sent to all others

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, dim) with one key per row -> like x. Raises ValueError for another number of keys."""
        if not self.training or not self.p:
            return x
        if len(self.keys) != len(x):
            raise ValueError(f"dropout of {len(x)} rows has {len(self.keys)} keys: call key_rows, or eval()")
        if kernels.usable(x):
            dropped: Tensor = _Dropout.apply(x, self.keys, self.p)
            return dropped
        return torch.where(keep_mask(self.keys, x.shape[1:], self.p), x / (1 - self.p), 0)


def key_rows(model: nn.Module, rows: Tensor) -> None:
    """Give every `RowDropout` of a model the keys of the batch's rows, int32 (B,), made its own by its place."""
    dropouts = [module for module in model.modules() if isinstance(module, RowDropout)]
    for site, module in enumerate(dropouts):
        module.keys = rows + site * SITE_STEP % 2**31


def keep_mask(keys: Tensor, shape: torch.Size, p: float) -> Tensor:
    """Which elements stay: a hash of key and position, 16 bits each; keys int32 (B,) -> bool (B, *shape)."""
    count = shape.numel()
    pairs = torch.arange((count + 1) // 2, dtype=torch.int32, device=keys.device)
    x = keys[:, None] ^ (pairs * POSITION_STEP)  # (B, pairs)
    x = (x ^ (x >> 16 & 0xFFFF)) * MIX[0]
    x = (x ^ (x >> 15 & 0x1FFFF)) * MIX[1]
    x = x ^ (x >> 16 & 0xFFFF)
    drawn = x.view(torch.int16)[:, :count].view(-1, *shape)  # each hash serves two elements
    return drawn >= least_kept(p)


def least_kept(p: float) -> int:
    """The smallest 16-bit hash of an element that stays."""
    return round(p * 2**16) - 2**15


class _Dropout(torch.autograd.Function):
    """The same by a kernel, whose hash is made once forward and once backward and never stored."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keys: Tensor, p: float) -> Tensor:
        ctx.keys, ctx.p = keys, p
        return _dropped(x, keys, p)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _dropped(gradient, ctx.keys, ctx.p), None, None


def _dropped(x: Tensor, keys: Tensor, p: float) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    kernels.call("dropout", x.dtype, x, keys.contiguous(), y, len(x), x[0].numel(), least_kept(p), 1 - p)
    return y
