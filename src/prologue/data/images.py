"""Images of a split, read at random from its webdataset tars by their index."""

import io
import os
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from prologue.core.errors import PrologueError
from prologue.core.files import read_json

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 2
EXTENSIONS = {  # of the formats that are read, by Pillow's names
    "JPEG": "jpg",
    "MPO": "jpg",  # a JPEG with further pictures behind it, as phones make them: the first counts
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
    "PPM": "ppm",
    "AVIF": "avif",
    "JPEG2000": "jp2",
    "QOI": "qoi",
    "DDS": "dds",
    "PCX": "pcx",
    "TGA": "tga",  # last, since it has no signature by which Pillow would know it
}
FORMATS = tuple(name for name in EXTENSIONS if name != "MPO")  # Pillow finds MPO by opening it as JPEG
ORIENTATION = 0x0112  # tag of EXIF
TURNS = {  # by orientation: what shows the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Image.MAX_IMAGE_PIXELS = None  # data.max_pixels takes the place of Pillow's own limit when shards are written
PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = 2**26, 2**27  # bytes of what programs write beside it


def open_image(data: bytes) -> Image.Image:
    """Read an image file's header; the pixels are decoded later. Raises OSError for what is no image."""
    return Image.open(io.BytesIO(data), formats=FORMATS)


def orientation(image: Image.Image) -> int:
    """The orientation of an image by its EXIF, 1 to 8; 1, upright, where it says none, or nothing that can be read."""
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # EXIF of phones and editors is broken in every way, and nothing else of it counts
        return 1
    return next((turn for turn in TURNS if turn == value), 1)


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode an image upright (EXIF orientation) as 8-bit RGB; alpha is dropped, not blended, as in ADM.

    Raises OSError for damaged files and ValueError for pixels without a known range (32-bit integer or float).
    """
    image.load()  # first: to read the EXIF of a PNG loads it too, and hides its errors
    turn = TURNS.get(orientation(image))
    is_16_bit = image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I")
    image = image if turn is None else image.transpose(turn)
    if image.mode == "RGB":
        return image
    if is_16_bit:
        grey = np.asarray(image).astype(np.float32) / 257  # 65535 -> 255; Pillow's own conversion clips at 255
        image = Image.fromarray(grey.round().astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range")
    elif "transparency" in image.info:
        image = image.convert("RGBA")  # converting straight to RGB warns
    return image.convert("RGB")


class ImageShards:
    """Random access to the images of one split that `write_shards` wrote.

    Attributes:
        classes: class names; a label is a position in this list.
        class_names: the same for people.
        labels: int64 (N,).
        shard_sizes: images in each tar.
    """

    def __init__(self, folder: Path, split: str) -> None:
        """Read the indexes of a split. Raises PrologueError where there are no shards, or older ones."""
        manifest_path = folder / MANIFEST
        if not manifest_path.exists():
            raise PrologueError(f"{manifest_path} not found: run the stage shards first")
        manifest = read_json(manifest_path)
        if manifest["format"] != MANIFEST_FORMAT:
            raise PrologueError(f"{manifest_path} has another format than this version's: run the stage shards again")
        tars = [folder / shard["file"] for shard in manifest[split]["shards"]]
        indexes = [np.load(index_path(tar)) for tar in tars]
        self.classes: list[str] = manifest["classes"]
        self.class_names: list[str] = manifest["class_names"]
        self._tars = _Tars(tars)
        self.shard_sizes = [len(index) for index in indexes]
        self._shard = np.repeat(np.arange(len(tars)), self.shard_sizes)
        columns = np.concatenate([np.empty((0, 4), np.int64), *indexes]).T.copy()
        self._offset, self._size, self.labels, self._checksum = columns

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, position: int) -> bytes:
        """The original file of an image. Raises PrologueError where its shard is damaged."""
        shard = self._shard[position]
        data = self._tars.read(shard, int(self._offset[position]), int(self._size[position]))
        if zlib.crc32(data) != self._checksum[position]:
            raise PrologueError(
                f"{self._tars.paths[shard]} is damaged at byte {self._offset[position]}: run `dvc repro -f shards`"
            )
        return data

    def image(self, position: int) -> Image.Image:
        """An image as 8-bit RGB, upright, at its original size."""
        return to_rgb(open_image(self.read(position)))


def index_path(tar: Path) -> Path:
    """The index beside a tar: int64 (images, 4) of offset, size, label, CRC-32."""
    return tar.with_suffix(".index.npy")


class _Tars:
    """Reads spans of files, each opened when it is first needed.

    A pickled copy, as loader workers get it, opens its own.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self._descriptors: dict[int, int] = {}

    def __reduce__(self) -> tuple[type["_Tars"], tuple[list[Path]]]:
        return _Tars, (self.paths,)

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def read(self, number: int, offset: int, size: int) -> bytes:
        """`size` bytes of file `number` from `offset`. Raises PrologueError where the file is shorter."""
        if number not in self._descriptors:
            self._descriptors[number] = os.open(self.paths[number], os.O_RDONLY)
        data = os.pread(self._descriptors[number], size, offset)
        if len(data) != size:
            raise PrologueError(f"{self.paths[number]} is shorter than its index says: run the stage shards again")
        return data
