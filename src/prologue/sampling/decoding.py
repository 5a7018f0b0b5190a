"""One token at a time from an AR model: a static cache of keys and values, weights made ready for it once."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prologue.core.conventions import HEAD_DIM
from prologue.core.runtime import compiled
from prologue.models import kernels
from prologue.models.ar import ARModel
from prologue.models.fused import write_heads
from prologue.models.transformer import Block, GatedLinear
from prologue.sampling.packing import InferenceLinear


class Decoder:
    """Decodes a fixed number of sequences in parallel, each a token further at every call.

    The model's weights are copied with their gates folded in, in bf16 rounded once, and laid out for the products.
    Where the launch compiles, the halves of each block are compiled apart from the attention between them, whose
    shapes change; the CPU kernels take the place of the first half.
    """

    def __init__(self, ar: ARModel, rows: int, dtype: torch.dtype) -> None:
        """`rows`: sequences, two per image with guidance; `dtype`: of matrix products and cache, fp32 or bf16."""
        self.ar = for_inference(ar)
        for name, module in list(self.ar.transformer.named_modules()):
            if isinstance(module, nn.Linear):
                self.ar.transformer.set_submodule(name, InferenceLinear(module.weight.to(dtype), rows))
        starts = (0, ar.vocabulary.prologue_tokens, ar.vocabulary.prefix)  # of the segments: prologue, EOS, visual
        segments = {ids.start: ids for ids in map(ar.vocabulary.ids_at, starts)}  # the visual one alone, if no prologue
        self.heads = {start: InferenceLinear(ar.output_weight[ids].to(dtype), rows) for start, ids in segments.items()}
        size = ar.config.transformer
        shape = (size.layers, 2, rows, size.dim // HEAD_DIM, ar.vocabulary.length, HEAD_DIM)
        self.cache = torch.zeros(shape, dtype=dtype, device=ar.token_embedding.weight.device)
        self.blocks = [block for block in self.ar.transformer.blocks if isinstance(block, Block)]
        self.by_kernels = kernels.usable(self.ar.token_embedding.weight, self.cache)
        self.starts = [block.start if self.by_kernels else compiled(block.start) for block in self.blocks]
        self.finishes = [compiled(block.finish) for block in self.blocks]  # no block holds its own: both could stay
        norms = [(block.attention.q_norm.scale, block.attention.k_norm.scale) for block in self.blocks]
        self.scales = [torch.cat(pair) for pair in norms]

    def logits(self, x: Tensor, position: int, ids: slice) -> Tensor:
        """fp32 logits over the ids that can stand next: input embeddings x (rows, dim) at `position` -> (rows, ids)."""
        return self.heads[ids.start](self.ar.out_norm(self._decode(x[:, None], position))).float()

    def _decode(self, x: Tensor, position: int) -> Tensor:
        """Hidden states after the last block of one new token per sequence; its keys and values go into the cache.

        x (rows, 1, dim) -> (rows, dim).
        """
        rotary = self.ar.rotary[position : position + 1]  # (1, 32, 2)
        parts = zip(self.blocks, self.starts, self.finishes, self.scales, self.cache, strict=True)
        for block, start, finish, scales, cache in parts:
            if self.by_kernels:
                attended = _attend_by_kernels(block, x, rotary, scales, cache, position)
            else:
                attended = _attend(start, x, rotary, cache, position)
            x = finish(x, attended)
        return x[:, 0]


def _attend(
    start: Callable[..., tuple[Tensor, Tensor, Tensor]], x: Tensor, rotary: Tensor, cache: Tensor, position: int
) -> Tensor:
    """Attended values of the token at `position`: x (rows, 1, dim), cache (2, ...) -> (rows, heads, 1, 64)."""
    q, k, v = start(x, rotary)  # (rows, heads, 1, 64)
    keys, values = cache
    keys[:, :, position : position + 1] = k
    values[:, :, position : position + 1] = v
    seen = slice(position + 1)
    return F.scaled_dot_product_attention(q, keys[:, :, seen], values[:, :, seen])


def _attend_by_kernels(block: Block, x: Tensor, rotary: Tensor, scales: Tensor, cache: Tensor, position: int) -> Tensor:
    """As `_attend`, with nothing copied: keys and values are written in place, and the cache is read once."""
    keys, values = cache
    attention, new = block.attention, slice(position, position + 1)
    q, attended = torch.empty_like(keys[:, :, new]), torch.empty_like(keys[:, :, new])
    write_heads(attention.qkv(block.attention_norm(x)), rotary, scales, q, keys[:, :, new], values[:, :, new])
    attend_cached(q, keys, values, attended, position + 1)
    return attended


def attend_cached(q: Tensor, keys: Tensor, values: Tensor, attended: Tensor, seen: int) -> None:
    """Attention of queries (rows, heads, 1, 64) over the first `seen` keys and values (rows, heads, length, 64).

    Writes `attended`, like q; only where the kernels serve.
    """
    kernels.call("decode_attention", q.dtype, q, keys, values, attended, q.numel() // HEAD_DIM, keys.shape[2], seen)


def for_inference(ar: ARModel) -> ARModel:
    """A copy of a model, in eval mode, whose gates are folded into the layers before them."""
    copied = copy.deepcopy(ar).eval().requires_grad_(False)
    for name, module in list(copied.named_modules()):
        if isinstance(module, GatedLinear):
            copied.set_submodule(name, module.folded())
    return copied
