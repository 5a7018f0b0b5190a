"""What a prologue carries: hold one and draw the visual tokens anew, of samples or real images; swap those of two."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prologue.models.tokenizer import Tokenizer, Tokens
from prologue.sampling.generation import Seed, TokenSampler
from prologue.sampling.images import Pixels, decode

HELD, REAL, SWAPPED = 10**9, 2 * 10**9, 3 * 10**9  # seeds, apart from those of the samples


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


def draw_held(sampler: TokenSampler, tokenizer: Tokenizer, rows: int, columns: int, seed: int) -> Pixels:
    """Images uint8 (rows + 1, columns, H, W, 3) of which those of a row share a sampled prologue (Fig. 1).

    Row r has class r. The last row is drawn freely, of the class of the row before it.
    """
    classes = torch.arange(rows, device=sampler.device)
    held = sampler.sample(classes, [(seed, HELD + row) for row in range(rows)]).prologue
    assert held is not None, "the model has no prologue"
    seeds = [(seed, HELD + row, column) for row in range(rows + 1) for column in range(columns)]
    resampled = resample_visual(sampler, held, classes, columns, seeds[: rows * columns])
    free = sampler.sample(classes[-1:].expand(columns), seeds[rows * columns :]).visual
    return _in_rows(np.concatenate([decode(tokenizer, resampled), decode(tokenizer, free)]), columns)


def draw_of_real(
    sampler: TokenSampler, tokenizer: Tokenizer, originals: Tensor, classes: Tensor, draws: int, seed: int
) -> Pixels:
    """Real images uint8 (B, 3, H, W) beside what they become: uint8 (B, 2 + draws, H, W, 3).

    A row is an image, its reconstruction, and images drawn with its prologue and class.
    """
    seeds = [(seed, REAL + row, column) for row in range(len(originals)) for column in range(draws)]
    resampled = decode(tokenizer, resample_visual(sampler, prologues_of(tokenizer, originals), classes, draws, seeds))
    copies = decode(tokenizer, tokenizer.encode(originals).visual)
    pixels = originals.permute(0, 2, 3, 1).cpu().numpy()
    return np.concatenate([pixels[:, None], copies[:, None], _in_rows(resampled, draws)], axis=1)


def draw_swapped(sampler: TokenSampler, tokenizer: Tokenizer, classes: Tensor, draws: int, seed: int) -> Pixels:
    """Pairs of sampled images, then each drawn again with the other's prologue: uint8 (2B, 1 + draws, H, W, 3).

    classes (2B,): those of the pairs (0, 1), (2, 3), ...; an image keeps its own.
    """
    tokens = sampler.sample(classes, [(seed, SWAPPED + image) for image in range(len(classes))])
    columns = [decode(tokenizer, tokens.visual)]
    for draw in range(draws):
        seeds = [(seed, SWAPPED + image, draw) for image in range(len(classes))]
        columns.append(decode(tokenizer, swap_prologues(sampler, tokens, classes, seeds)))
    return np.stack(columns, axis=1)


def _in_rows(images: Pixels, columns: int) -> Pixels:
    return images.reshape(-1, columns, *images.shape[1:])
