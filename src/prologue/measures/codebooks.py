"""How much of a codebook is used."""

import torch
from torch import Tensor

from prologue.core.runtime import in_float64


def count_codes(ids: Tensor, codes: int) -> Tensor:
    """How often each of `codes` codes stands in int64 ids of any shape: int64 (codes,).

    Not by `torch.bincount`, for whose result's size Python waits for the device.
    """
    drawn = ids.flatten()
    return torch.zeros(codes, dtype=torch.long, device=ids.device).scatter_add_(0, drawn, torch.ones_like(drawn))


def codebook_usage(counts: Tensor) -> tuple[float, float]:
    """Share of codes in use, and perplexity (exponential of the entropy) of how often each code (K,) was counted.

    Fewer draws than codes cannot use them all: the share is of the codes that as many draws could reach.
    """
    total = int(counts.sum())
    frequency = in_float64(counts[counts > 0]) / total
    return len(frequency) / min(len(counts), total), (-(frequency * frequency.log()).sum()).exp().item()
