"""Sets of images to be measured: an npz in ADM's layout, a split of the shards; folders are in folder_images."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prologue.core.errors import PrologueError
from prologue.core.npz import DAMAGED, array_names, opened_array
from prologue.data.images import ImageShards
from prologue.data.loader import view_batches
from prologue.data.order import evenly_spaced

IMAGES_KEY = "arr_0"  # of the npz, as ADM writes it
NAMED = 5  # arrays in a message

Positions = NDArray[np.int64]


class ImageSet(Protocol):
    """Images in a fixed order, read in batches by their positions, so that no set has to fit into memory."""

    def __len__(self) -> int: ...

    def batches(self, positions: Positions, batch: int) -> Iterator[Sequence[Tensor] | Tensor]:
        """The images at ascending positions, `batch` at a time: uint8 (3, H, W) each, of any size."""


class ShardImages:
    """A split of the shards, centre-cropped to `size` px; all images, or those at `chosen` positions."""

    def __init__(self, shards: ImageShards, size: int, chosen: Positions | None = None) -> None:
        self.shards, self.size = shards, size
        self.chosen = np.arange(len(shards)) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def spread(self, count: int) -> "ShardImages":
        """So many of these images, or all, as far apart as they can be."""
        places = evenly_spaced(len(self), count)
        return ShardImages(self.shards, self.size, self.chosen[places])

    def batches(self, positions: Positions, batch: int) -> Iterator[Tensor]:
        """As `ImageSet`."""
        places = self.chosen[positions]
        return (views[:, 0] for views, _ in view_batches(self.shards, self.size, "center", places, batch))


class ArrayImages:
    """Images in memory, or in a memory map: uint8 (N, H, W, 3)."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, positions: Positions, batch: int) -> Iterator[Tensor]:
        """As `ImageSet`."""
        for start in range(0, len(positions), batch):
            yield torch.from_numpy(self.images[positions[start : start + batch]]).permute(0, 3, 1, 2)


def _content(path: Path) -> str:
    """What else a zip holds, for a message; nothing of what is none."""
    if not zipfile.is_zipfile(path):
        return ""
    names = array_names(path)
    return f"; it holds {', '.join(names[:NAMED])}" + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


class NpzImages:
    """`arr_0`, uint8 (N, H, W, 3), of an npz file; its images are never all in memory, its other arrays are not read.

    Raises:
        PrologueError: the file is no such npz.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with opened_array(path, IMAGES_KEY) as (_, header):
                self.shape = header.shape
        except DAMAGED as error:
            raise PrologueError(f"{path} is no npz of samples ({error}){_content(path)}") from None
        if header.dtype != np.uint8:
            raise PrologueError(f"{path}: {IMAGES_KEY} is {header.dtype}, but images are uint8 from 0 to 255")
        if header.fortran or len(self.shape) != 4 or self.shape[3] != 3 or not all(self.shape):
            raise PrologueError(
                f"{path}: {IMAGES_KEY} has the shape {self.shape}, but RGB images are (N, H, W, 3) in C order"
                + ("; repeat grey images over three channels" if len(self.shape) == 3 or self.shape[3:] == (1,) else "")
            )

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def side(self) -> int:
        """Height of an image in px."""
        return self.shape[1]

    def batches(self, positions: Positions, batch: int) -> Iterator[Tensor]:
        """As `ImageSet`. Raises PrologueError where the file ends early or is damaged."""
        size = int(np.prod(self.shape[1:]))
        try:
            with opened_array(self.path, IMAGES_KEY) as (file, header):
                for start in range(0, len(positions), batch):
                    images = []
                    for position in positions[start : start + batch]:
                        file.seek(header.offset + int(position) * size)
                        images.append(np.frombuffer(file.read(size), np.uint8).reshape(self.shape[1:]))
                    yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        except DAMAGED as error:
            raise PrologueError(f"{self.path} is damaged ({error})") from None
