"""A folder of image files as a set of images to be measured."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from prologue.core.errors import PrologueError
from prologue.data.images import EXTENSIONS, open_image, to_rgb
from prologue.data.sources.base import Unusable
from prologue.data.transforms import center_crop
from prologue.data.verify import check_image
from prologue.evaluation.image_sets import Positions

MAX_PIXELS = 100_000_000  # larger images are refused as decompression bombs
SUFFIXES = {f".{name}" for name in EXTENSIONS.values()} | {".jpeg", ".tiff"}


class FolderImages:
    """All image files below a folder, by path; centre-cropped squares of `size` px, or of their own shorter side.

    Raises:
        PrologueError: there are no images.
    """

    def __init__(self, folder: Path, size: int | None) -> None:
        self.paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        self.size = size
        if not self.paths:
            raise PrologueError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, positions: Positions, batch: int) -> Iterator[list[Tensor]]:
        """As `ImageSet`. Raises PrologueError for a file that is no image."""
        for start in range(0, len(positions), batch):
            yield [self._read(self.paths[position]) for position in positions[start : start + batch]]

    def _read(self, path: Path) -> Tensor:
        content = path.read_bytes()
        try:
            check_image(content, MAX_PIXELS)
        except Unusable as error:
            raise PrologueError(f"{path} cannot be measured: {error}") from None
        image = to_rgb(open_image(content))
        return torch.from_numpy(center_crop(image, self.size or min(image.size)).copy()).permute(2, 0, 1)
