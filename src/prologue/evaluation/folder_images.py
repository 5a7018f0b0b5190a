"""A folder of image files as a set of images to be measured."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from prologue.core.errors import PrologueError
from prologue.data.images import open_image, to_rgb
from prologue.data.sources.base import Unusable
from prologue.data.sources.images import image_paths
from prologue.data.transforms import center_crop
from prologue.data.verify import check_image
from prologue.evaluation.image_sets import Positions

MAX_PIXELS = 100_000_000  # of an image; larger ones are refused as decompression bombs
BATCH_PIXELS = 2**25  # of a batch in memory
MAX_UNUSABLE = 0.01  # share of the files
NAMED = 5  # files in a message


class FolderImages:
    """All image files below a folder, by path; centre-cropped squares of `size` px, or of their own shorter side.

    What counts as an image is the same as in a source of images. A file that cannot be used comes as an image without
    pixels, and its name and reason are kept.

    Raises:
        PrologueError: there are no images.
    """

    def __init__(self, folder: Path, size: int | None) -> None:
        self.paths, self.ignored = image_paths(folder)
        self.size = size
        self.unusable: dict[Path, str] = {}
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._first: dict[tuple[int, int], Path] = {}
        if not self.paths:
            ignored = ", ".join(f"{name} {count}" for name, count in sorted(self.ignored.items()))
            raise PrologueError(f"{folder} holds no images" + (f"; other files: {ignored}" if ignored else ""))

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, positions: Positions, batch: int) -> Iterator[list[Tensor]]:
        """As `ImageSet`, fewer at a time of large images. Raises PrologueError where too many files cannot be used."""
        images: list[Tensor] = []
        for position in positions:
            images.append(self._read(self.paths[position]))
            if len(images) == batch or sum(image[0].numel() for image in images) >= BATCH_PIXELS:
                yield images
                images = []
        if images:
            yield images

    def _read(self, path: Path) -> Tensor:
        try:
            content = path.read_bytes()
            check_image(content, MAX_PIXELS)
            image = to_rgb(open_image(content))
        except (OSError, Unusable) as error:
            self._note(path, str(error))
            return torch.empty(3, 0, 0, dtype=torch.uint8)
        self._sizes[image.size] += 1
        self._first.setdefault(image.size, path)
        return torch.from_numpy(center_crop(image, self.size or min(image.size)).copy()).permute(2, 0, 1)

    def _note(self, path: Path, reason: str) -> None:
        """Keep why a file cannot be used. Raises PrologueError once there are too many."""
        self.unusable[path] = reason
        if len(self.unusable) > MAX_UNUSABLE * len(self):
            named = "".join(f"\n  {name}: {why}" for name, why in list(self.unusable.items())[:NAMED])
            share = f"more than {MAX_UNUSABLE:.0%} of the {len(self)} images"
            raise PrologueError(f"{share} cannot be measured; mend or remove them:{named}")

    @property
    def side(self) -> int:
        """px of the images that were read, as they are measured; of images of many sizes the most common."""
        return self.size or min(self._sizes.most_common(1)[0][0])

    def warnings(self) -> list[str]:
        """What a user should know of the files that were read: those that cannot be used, and those of another size."""
        said = [f"{path} cannot be measured: {reason}" for path, reason in self.unusable.items()]
        if not self.size and len(self._sizes) > 1:
            (common, count), *others = self._sizes.most_common()
            if 2 * count > self._sizes.total():
                rest = sum(own for _, own in others)
                named = ", ".join(f"{self._first[size]} ({size[0]} x {size[1]} px)" for size, _ in others[:NAMED])
                said.append(
                    f"{rest} of {len(self)} images are of another size than {common[0]} x {common[1]} px: {named}"
                )
        return said
