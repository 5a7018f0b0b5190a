"""Pictures of samples: class grids, and what happens when a prologue is held, taken from a real image, or swapped."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from prologue.data.images import ImageShards
from prologue.data.loader import view_batches
from prologue.figures.grids import image_grid
from prologue.files import replacing
from prologue.models.tokenizer import Tokenizer
from prologue.params import Params
from prologue.sampling.generation import TokenSampler
from prologue.sampling.images import decode
from prologue.sampling.prologues import prologues_of, resample_visual, swap_prologues

COLUMNS = 10
MAX_ROWS = 20  # classes in a figure
HELD, REAL, SWAPPED = 10**9, 2 * 10**9, 3 * 10**9  # seeds of the figures, apart from those of the samples


def draw_sample_figures(
    folder: Path,
    samples: dict[str, NDArray[np.uint8]],
    labels: NDArray[np.int64],
    names: list[str],
    sampler: TokenSampler,
    tokenizer: Tokenizer,
    real: ImageShards,
    params: Params,
) -> None:
    """Write samples_RUN.png and, with a prologue, held_, real_prologue and swapped_prologues.png to `folder`."""
    rows = min(params.sampling.rows, len(names))
    with replacing(folder) as pictures:
        pictures.mkdir()
        for run, images in samples.items():
            class_grid(images, labels, names).save(pictures / f"samples_{run}.png")
        if sampler.vocabulary.prologue_tokens:
            held_prologue(sampler, tokenizer, names, rows, params.seed).save(pictures / "held_prologue.png")
            real_prologue(sampler, tokenizer, names, real, rows, params.seed).save(pictures / "real_prologue.png")
            swapped_prologues(sampler, tokenizer, names, rows, params.seed).save(pictures / "swapped_prologues.png")


def class_grid(images: NDArray[np.uint8], labels: NDArray[np.int64], names: list[str]) -> Image.Image:
    """Uncurated grid: the first images of each of the first classes that were sampled, a labelled row each."""
    shown = sorted(set(labels.tolist()))[:MAX_ROWS]
    rows = [images[labels == label][:COLUMNS] for label in shown]
    columns = min(map(len, rows))
    return image_grid(np.concatenate([row[:columns] for row in rows]), columns, [names[label] for label in shown])


def held_prologue(sampler: TokenSampler, tokenizer: Tokenizer, names: list[str], rows: int, seed: int) -> Image.Image:
    """Fig. 1: rows of images whose prologue is held while the visual tokens are drawn anew; the last row is free.

    Row r has class r, the free row the last one.
    """
    classes = torch.arange(rows, device=sampler.device)
    held = sampler.sample(classes, [(seed, HELD + row) for row in range(rows)]).prologue
    assert held is not None
    seeds = [(seed, HELD + row, column) for row in range(rows + 1) for column in range(COLUMNS)]
    fixed, free = seeds[: rows * COLUMNS], seeds[rows * COLUMNS :]
    resampled = resample_visual(sampler, held, classes, COLUMNS, fixed)
    drawn_freely = sampler.sample(classes[-1:].expand(COLUMNS), free).visual
    images = np.concatenate([decode(tokenizer, resampled), decode(tokenizer, drawn_freely)])
    return image_grid(images, COLUMNS, [*names[:rows], f"{names[rows - 1]}, free"])


def real_prologue(
    sampler: TokenSampler, tokenizer: Tokenizer, names: list[str], real: ImageShards, rows: int, seed: int
) -> Image.Image:
    """A real image, its reconstruction, and images drawn with its prologue and class; one row per class."""
    chosen = [int(np.flatnonzero(real.labels == label)[0]) for label in range(rows) if label in real.labels]
    views, _ = next(view_batches(real, tokenizer.config.image_size, "center", chosen, len(chosen)))
    originals = views[:, 0].to(sampler.device)
    classes = torch.from_numpy(real.labels[chosen]).to(sampler.device)
    draws = COLUMNS - 2
    seeds = [(seed, REAL + row, column) for row in range(len(chosen)) for column in range(draws)]
    resampled = decode(tokenizer, resample_visual(sampler, prologues_of(tokenizer, originals), classes, draws, seeds))
    copies = decode(tokenizer, tokenizer.encode(originals).visual)
    pixels = originals.permute(0, 2, 3, 1).cpu().numpy()
    table = np.concatenate(
        [pixels[:, None], copies[:, None], resampled.reshape(len(chosen), draws, *copies.shape[1:])], 1
    )
    return image_grid(table.reshape(-1, *copies.shape[1:]), COLUMNS, [names[label] for label in classes.tolist()])


def swapped_prologues(
    sampler: TokenSampler, tokenizer: Tokenizer, names: list[str], rows: int, seed: int
) -> Image.Image:
    """Pairs of classes: an image of each, then each drawn again with the other's prologue and its own class."""
    pairs = max(1, rows // 2)
    classes = torch.arange(2 * pairs, device=sampler.device) % len(names)
    tokens = sampler.sample(classes, [(seed, SWAPPED + image) for image in range(2 * pairs)])
    columns = [decode(tokenizer, tokens.visual)]
    for draw in range((COLUMNS - 2) // 2):
        seeds = [(seed, SWAPPED + image, draw) for image in range(2 * pairs)]
        columns.append(decode(tokenizer, swap_prologues(sampler, tokens, classes, seeds)))
    images = np.stack(columns, axis=1)  # (2 * pairs, columns, H, W, 3)
    labels = [
        f"{names[label]} < {names[other]}"
        for label, other in zip(classes.tolist(), classes.unflatten(0, (-1, 2)).flip(1).flatten().tolist(), strict=True)
    ]
    return image_grid(images.reshape(-1, *images.shape[2:]), len(columns), labels)
