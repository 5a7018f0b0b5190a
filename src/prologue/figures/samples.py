"""Pictures of samples: class grids, and what happens when a prologue is held, taken from a real image, or swapped."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prologue.figures.grids import image_grid

COLUMNS = 10
WIDEST = 32  # images in a row
MAX_ROWS = 20  # classes in a figure

Pixels = NDArray[np.uint8]


def class_grid(images: Pixels, labels: NDArray[np.int64], names: list[str]) -> Image.Image:
    """Uncurated grid: the first images of each of the first classes that were sampled, a labelled row each."""
    shown = sorted(set(labels.tolist()))[:MAX_ROWS]
    rows = [images[labels == label][:COLUMNS] for label in shown]
    cells = np.full((len(rows), max(map(len, rows)), *images.shape[1:]), 255, np.uint8)
    for place, row in enumerate(rows):  # of a rare class there may be fewer
        cells[place, : len(row)] = row
    return table_grid(cells, [names[label] for label in shown])


def turns_grid(images: Pixels, names: list[str], classes: int) -> Image.Image:
    """All images (N, H, W, 3) of so many classes that took turns, labelled rows of each; of many classes, in rows."""
    most = -(-len(images) // classes)
    if most == 1:
        return image_grid(images, min(COLUMNS, len(images)))
    columns = min(most, WIDEST)
    rows = -(-most // columns)
    cells = np.full((classes, rows * columns, *images.shape[1:]), 255, np.uint8)
    for number, image in enumerate(images):
        cells[number % classes, number // classes] = image
    labels = [name for name in names[:classes] for _ in range(rows)]
    return table_grid(cells.reshape(classes * rows, columns, *images.shape[1:]), labels)


def held_grid(images: Pixels, names: list[str]) -> Image.Image:
    """Fig. 1: rows of images that share a prologue, (rows + 1, columns, H, W, 3); row r is class r, the last free."""
    held = names[: len(images) - 1]
    return table_grid(images, [*held, f"{held[-1]}, free"])


def swapped_grid(images: Pixels, labels: list[int], names: list[str]) -> Image.Image:
    """Pairs of images, then each drawn again with the other's prologue: (2B, columns, H, W, 3) and labels (2B,)."""
    others = np.array(labels).reshape(-1, 2)[:, ::-1].ravel()
    rows = [f"{names[label]} < {names[other]}" for label, other in zip(labels, others, strict=True)]
    return table_grid(images, rows)


def table_grid(images: Pixels, row_labels: list[str]) -> Image.Image:
    """Images (rows, columns, H, W, 3) as they lie, a label left of each row."""
    return image_grid(images.reshape(-1, *images.shape[2:]), images.shape[1], row_labels)
