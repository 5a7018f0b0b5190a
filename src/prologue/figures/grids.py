"""Grids of pictures with labelled rows: samples by class, reconstructions, rows that share a prologue."""

import math

import numpy as np
from PIL import Image, ImageDraw

from prologue.figures.fonts import font_for

READABLE_CELL = 64  # px; smaller pictures are enlarged to at least this height
LONGEST_LABEL = 24  # characters


def image_grid(
    images: np.ndarray, columns: int, row_labels: list[str] | None = None, scale: int | None = None, gap: int = 4
) -> Image.Image:
    """Lay pictures out in rows on white, each row optionally labelled at its left.

    Args:
        images: uint8 (N, H, W, 3), row by row; the last row may be short.
        columns: pictures in a row.
        row_labels: one text for each row.
        scale: whole factor of nearest-neighbour enlargement; None: the smallest that makes H at least 64 px.
        gap: white px between pictures and around the grid.

    Raises:
        ValueError: the images are not uint8 (N, H, W, 3) with N >= 1, or the labels do not match the rows.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
        raise ValueError(f"expected uint8 (N, H, W, 3) with N >= 1, got {images.dtype} {images.shape}")
    rows = math.ceil(len(images) / columns)
    if row_labels is not None and len(row_labels) != rows:
        raise ValueError(f"{len(row_labels)} row labels for {rows} rows")
    scale = scale or math.ceil(READABLE_CELL / images.shape[1])
    cells = images.repeat(scale, axis=1).repeat(scale, axis=2)  # (N, H * scale, W * scale, 3)
    height, width = cells.shape[1:3]
    size = max(14, height // 4)
    labels = [font_for(_shortened(label), size) for label in row_labels or []]
    margin = max((math.ceil(font.getlength(label)) + 2 * gap for font, label in labels), default=0)

    grid = Image.new("RGB", (margin + gap + columns * (width + gap), gap + rows * (height + gap)), "white")
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        grid.paste(Image.fromarray(cell), (margin + gap + column * (width + gap), gap + row * (height + gap)))
    draw = ImageDraw.Draw(grid)
    for row, (font, label) in enumerate(labels):
        draw.text((margin - gap, gap + row * (height + gap) + height / 2), label, "#1d2329", font, anchor="rm")
    return grid


def pair_grid(originals: np.ndarray, copies: np.ndarray, columns: int) -> Image.Image:
    """Pairs of rows of up to `columns` images uint8 (N, H, W, 3): originals above their reconstructions."""
    columns = min(columns, len(originals))
    white = np.full((-len(originals) % columns, *originals.shape[1:]), 255, np.uint8)  # fills the last row
    halves = [np.concatenate((half, white)).reshape(-1, columns, *half.shape[1:]) for half in (originals, copies)]
    rows = np.stack(halves, axis=1)  # (pairs, 2, columns, H, W, 3)
    return image_grid(rows.reshape(-1, *originals.shape[1:]), columns, ["original", "reconstruction"] * len(rows))


def _shortened(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 3].rstrip() + "..."
