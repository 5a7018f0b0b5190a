"""What attention maps say: the share that each part of the sequence gets, and what is taken of the prologue (Sec. 4.2).

Position i reads the i-th input of [class] prologue [EOS] visual and predicts the token after it. A visual position is
one that predicts a visual token: its own input is that token's left neighbour, and every cell of the grid has one.
"""

import torch
from torch import Tensor

from prologue.models.vocabulary import Vocabulary


def uniform_attention(length: int) -> Tensor:
    """The map of positions that take as much of every input they see: float64 (1, length, length)."""
    seen = torch.ones(1, length, length, dtype=torch.float64).tril()
    return seen / seen.sum(dim=-1, keepdim=True)


def parts_read(vocabulary: Vocabulary, width: int | None) -> dict[str, Tensor]:
    """Which inputs make up each part of the sequence, for every visual position: bool (Nv, T) by the part's name.

    The parts are class, prologue and eos (with a prologue), then in a grid of rows of `width` tokens the left and the
    upper neighbour of the token that is predicted, without a grid the previous token, and other visual tokens. Each
    input that a position sees is in exactly one of them.
    """
    inputs = torch.arange(vocabulary.length)
    predicted = torch.arange(vocabulary.visual_tokens)[:, None]
    token = inputs - vocabulary.prefix - 1  # which visual token an input is; below 0 what comes before them
    visual = (token >= 0) & (token < predicted)
    parts = {"class": (inputs == 0).expand_as(visual)}
    if vocabulary.prologue_tokens:
        parts["prologue"] = ((inputs > 0) & (inputs < vocabulary.prefix)).expand_as(visual)
        parts["eos"] = (inputs == vocabulary.prefix).expand_as(visual)
    if width is None:
        parts["previous"] = visual & (token == predicted - 1)
    else:
        parts["left"] = visual & (token == predicted - 1) & (predicted % width > 0)
        parts["upper"] = visual & (token == predicted - width)
    parts["other"] = visual & ~torch.stack(list(parts.values())).any(dim=0)
    return parts


def attention_shares(maps: Tensor, vocabulary: Vocabulary, width: int | None) -> dict[str, list[float]]:
    """Share of the visual positions' attention that each of `parts_read` gets, of maps (layers, T, T): by layer.

    It is the mean over all visual positions, of which the first ones have no neighbours yet; the parts add up to 1.
    """
    rows = maps[:, vocabulary.prefix :]  # (layers, Nv, T)
    parts = parts_read(vocabulary, width)
    return {part: (rows * inputs).sum(dim=-1).mean(dim=-1).tolist() for part, inputs in parts.items()}


def attention_to_prologue(maps: Tensor, vocabulary: Vocabulary, width: int) -> Tensor:
    """What the position of each cell of the grid takes of each prologue token, mean over the last half of the layers.

    maps (layers, ..., T, T) -> (..., Np, rows, width); of an odd number of layers the larger half (Fig. 7, A4).
    """
    late = maps[len(maps) // 2 :].mean(dim=0)
    taken = late[..., vocabulary.prefix :, 1 : vocabulary.prefix]  # (..., Nv, Np)
    return taken.transpose(-1, -2).unflatten(-1, (-1, width))
