"""Plain attention products against PyTorch's fused kernel on this CPU, forward and backward: which `attend` should use.

python benchmarks/attention_kernels.py     # prints times; plain / fused below 1 means that plain products are faster
"""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from prologue.models.transformer import attention_weights

SHAPES = [  # batch, heads, tokens, causal
    (32, 2, 72, False),  # the default tokenizer
    (32, 3, 73, True),  # the default AR model
    (2, 12, 272, False),  # Base at 256 px
    (8, 12, 273, True),
    (16, 12, 257, False),
]
REPEATS, ROUNDS = 10, 4


def plain(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    return attention_weights(q, k, causal) @ v


def fused(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def seconds(attend: Callable[..., Tensor], inputs: list[Tensor], causal: bool) -> float:
    """Fastest of several rounds of forward and backward."""
    best = math.inf
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(REPEATS):
            out = attend(*inputs, causal)
            out.backward(torch.ones_like(out))
        best = min(best, (time.perf_counter() - began) / REPEATS)
    return best


def main() -> None:
    for batch, heads, tokens, causal in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            inputs = [torch.randn(batch, heads, tokens, 64, dtype=dtype, requires_grad=True) for _ in range(3)]
            times = [seconds(attend, inputs, causal) for attend in (plain, fused)]
            scores = batch * heads * tokens**2
            print(
                f"{scores:>10,} scores {dtype}: plain {1e3 * times[0]:.2f} ms, plain / fused {times[0] / times[1]:.2f}"
            )


if __name__ == "__main__":
    main()
