"""Sampling with a static KV cache: prologue first, then EOS, then visual tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from prologue.models.ar import ARModel
from prologue.models.tokenizer import Tokens
from prologue.models.transformer import Block, attend
from prologue.sampling.guidance import Guidance
from prologue.seeds import derive_seed


@dataclass(frozen=True)
class Temperatures:
    """Divisors of the logits; 0 takes the most likely id."""

    prologue: float = 1.0
    visual: float = 1.0


class KVCache:
    """Keys and values of every layer, allocated once: (layers, 2, B, heads, length, 64)."""

    def __init__(self, ar: ARModel, batch: int) -> None:
        transformer, length = ar.config.transformer, ar.vocabulary.length
        weight = ar.token_embedding.weight
        heads = transformer.dim // 64
        self.data = weight.new_empty(transformer.layers, 2, batch, heads, length, 64)

    def attend(self, block: Block, layer: int, x: Tensor, rotary: Tensor, position: int) -> Tensor:
        """Attention branch of one new token per sequence: x (B, 1, dim) at `position` -> (B, 1, dim)."""
        q, k, v = block.attention.heads(x, rotary)  # (B, heads, 1, 64)
        keys, values = self.data[layer]
        keys[:, :, position], values[:, :, position] = k[:, :, 0], v[:, :, 0]
        seen = slice(0, position + 1)
        return block.attention.merge(attend(q, keys[:, :, seen], values[:, :, seen], causal=False))


def decode_token(ar: ARModel, cache: KVCache, x: Tensor, position: int, ids: slice) -> Tensor:
    """Logits over the ids that can stand next: x (B, 1, dim) at `position` -> (B, number of ids)."""
    rotary = ar.rotary[position : position + 1]
    for layer, block in enumerate(ar.transformer.blocks):
        assert isinstance(block, Block)
        x = x + cache.attend(block, layer, block.attention_norm(x), rotary, position)
        x = block.add_feed_forward(x)
    return ar.project(x[:, 0], ids)  # only the slice that can occur


@torch.no_grad()
def generate(
    ar: ARModel,
    classes: Tensor,
    guidance: Guidance | None = None,
    temperatures: Temperatures | None = None,
    seeds: Sequence[tuple[int, ...]] | None = None,
    prologue: Tensor | None = None,
) -> Tokens:
    """Sample token ids, prologue first and visual second.

    Args:
        ar: the model, in eval mode.
        classes: ids (B,); `vocabulary.null_class` samples without a class.
        guidance: None samples from the conditional model alone.
        temperatures: of both segments; 1 where None.
        seeds: one tuple per image, which depends on its own seed only; image i has (0, i) where None.
        prologue: ids (B, Np) to hold fixed, so that only the visual tokens are sampled.

    Returns:
        Ids in each token's own codebook: prologue (B, Np) or None, visual (B, Nv).
    """
    vocabulary, batch = ar.vocabulary, len(classes)
    temperatures = temperatures or Temperatures()
    seeds = [(0, image) for image in range(batch)] if seeds is None else seeds
    uniforms = _uniforms(seeds, vocabulary.length).to(classes.device)
    labels = classes if guidance is None else torch.cat((classes, torch.full_like(classes, vocabulary.null_class)))
    cache = KVCache(ar, len(labels))
    x = ar.class_embedding(labels)[:, None]  # (B or 2B, 1, dim)
    drawn = torch.empty(batch, vocabulary.length, dtype=torch.long, device=classes.device)
    for position in range(vocabulary.length):
        in_prologue = position < vocabulary.prologue_tokens
        ids = vocabulary.prologue_ids if in_prologue else vocabulary.visual_ids
        logits = decode_token(ar, cache, x, position, ids)
        if vocabulary.prologue_tokens and position == vocabulary.prologue_tokens:
            drawn[:, position] = vocabulary.eos
        elif in_prologue and prologue is not None:
            drawn[:, position] = prologue[:, position] + ids.start
        else:
            if guidance is not None:
                logits = _guide(logits, guidance.scale(position, vocabulary))
            temperature = temperatures.prologue if in_prologue else temperatures.visual
            drawn[:, position] = _draw(logits, temperature, uniforms[:, position]) + ids.start
        x = ar.token_embedding(drawn[:, position].repeat(len(labels) // batch))[:, None]
    sampled_prologue = drawn[:, : vocabulary.prologue_tokens] - vocabulary.visual_codebook
    return Tokens(sampled_prologue if vocabulary.prologue_tokens else None, drawn[:, vocabulary.prefix :])


def _guide(logits: Tensor, scale: float) -> Tensor:
    """Mix the conditional and unconditional halves of a doubled batch: (2B, V) -> (B, V)."""
    conditional, unconditional = logits.chunk(2)
    return scale * conditional + (1 - scale) * unconditional


def _draw(logits: Tensor, temperature: float, uniforms: Tensor) -> Tensor:
    """Inverse-CDF draw of one id per row: logits (B, V), uniforms (B,) in [0, 1) -> (B,)."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    cumulative = F.softmax(logits.double() / temperature, dim=-1).cumsum(dim=-1)
    drawn = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return drawn.clamp_max(logits.shape[-1] - 1)


def _uniforms(seeds: Sequence[tuple[int, ...]], length: int) -> Tensor:
    """One row of uniform numbers per image from its own seed: (B, length), float64."""
    rows = [
        torch.rand(length, generator=torch.Generator().manual_seed(derive_seed(*seed)), dtype=torch.float64)
        for seed in seeds
    ]
    return torch.stack(rows)
