"""One token at a time from an AR model: a static cache of keys and values, gates folded into the weights."""

import copy
import math

import torch
from torch import Tensor, nn

from prologue.models.ar import ARModel
from prologue.models.transformer import Block, GatedLinear
from prologue.params import HEAD_DIM
from prologue.runtime import compiled

BUCKET = 64  # attention reads the cache up to the next multiple, so that few different shapes occur


class Decoder:
    """Decodes a fixed number of sequences in parallel, each a token further at every call.

    The model's weights are copied with their gates folded in and, in bf16, rounded once. Where the launch compiles, the
    halves of each block are compiled apart from the attention between them, whose shapes change, with frozen weights.
    """

    def __init__(self, ar: ARModel, rows: int, dtype: torch.dtype) -> None:
        """`rows`: sequences, two per image with guidance; `dtype`: of matrix products and cache, fp32 or bf16."""
        self.ar, self.dtype = for_inference(ar, dtype), dtype
        size = ar.config.transformer
        length = math.ceil(ar.vocabulary.length / BUCKET) * BUCKET
        shape = (size.layers, 2, rows, size.dim // HEAD_DIM, length, HEAD_DIM)
        self.cache = torch.zeros(shape, dtype=dtype, device=ar.token_embedding.weight.device)
        self.positions = torch.arange(length, device=self.cache.device)
        self.halves = [
            (compiled(block.start, freezing=True), compiled(block.finish, freezing=True))
            for block in self.ar.transformer.blocks
            if isinstance(block, Block)
        ]

    def logits(self, x: Tensor, position: int, ids: slice) -> Tensor:
        """fp32 logits over the ids that can stand next: input embeddings x (rows, dim) at `position` -> (rows, ids)."""
        seen = self.positions[: (position // BUCKET + 1) * BUCKET]
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            hidden = self._decode(x[:, None], self.positions[position : position + 1], seen)
            return self.ar.project(hidden, ids).float()

    def _decode(self, x: Tensor, position: Tensor, seen: Tensor) -> Tensor:
        """Hidden states after the last block of one new token per sequence; its keys and values go into the cache.

        x (rows, 1, dim), position (1,), seen (bucket,): 0, 1, ... -> (rows, dim).
        """
        rotary = self.ar.rotary[position]  # (1, 32, 2)
        ahead = torch.where(seen > position, -math.inf, 0.0)  # (bucket,)
        for (start, finish), (keys, values) in zip(self.halves, self.cache, strict=True):
            q, k, v = start(x, rotary)  # (rows, heads, 1, 64)
            keys.index_copy_(2, position, k)
            values.index_copy_(2, position, v)
            own_keys, own_values = keys[:, :, : len(seen)], values[:, :, : len(seen)]  # (rows, heads, bucket, 64)
            weights = ((q * HEAD_DIM**-0.5) @ own_keys.transpose(-1, -2) + ahead).softmax(dim=-1).to(v.dtype)
            x = finish(x, weights @ own_values)
        return x[:, 0]


def for_inference(ar: ARModel, dtype: torch.dtype) -> ARModel:
    """A copy of a model, in eval mode, whose gates are folded into the layers before them; linear layers in `dtype`."""
    copied = copy.deepcopy(ar).eval().requires_grad_(False)
    for name, module in list(copied.named_modules()):
        if isinstance(module, GatedLinear):
            copied.set_submodule(name, module.folded())
    for module in copied.modules():
        if isinstance(module, nn.Linear):
            module.to(dtype)
    return copied
