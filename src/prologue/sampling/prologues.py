"""What a prologue carries: hold one and draw the visual tokens anew, of samples or real images; swap those of two."""

from collections.abc import Sequence

from torch import Tensor

from prologue.models.tokenizer import Tokenizer, Tokens
from prologue.sampling.generation import Seed, TokenSampler


def resample_visual(
    sampler: TokenSampler, prologue: Tensor, classes: Tensor, count: int, seeds: Sequence[Seed]
) -> Tensor:
    """Visual ids (B * count, Nv) of `count` draws with each prologue (B, Np) held, image after image (Fig. 1).

    classes (B,); seeds: one of each draw.
    """
    held = prologue.repeat_interleave(count, dim=0)
    return sampler.sample(classes.repeat_interleave(count), seeds, held).visual


def prologues_of(tokenizer: Tokenizer, images: Tensor) -> Tensor:
    """Prologue ids (B, Np) of real images uint8 (B, 3, H, W). The tokenizer must have a prologue."""
    prologue = tokenizer.encode(images).prologue
    assert prologue is not None, "the tokenizer has no prologue"
    return prologue


def swap_prologues(sampler: TokenSampler, tokens: Tokens, classes: Tensor, seeds: Sequence[Seed]) -> Tensor:
    """Visual ids (2B, Nv) of image pairs (0, 1), (2, 3), ... drawn with each other's prologue and their own class.

    tokens and classes of 2B images; seeds: one of each.
    """
    assert tokens.prologue is not None, "the tokens have no prologue"
    swapped = tokens.prologue.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    return sampler.sample(classes, seeds, swapped).visual
