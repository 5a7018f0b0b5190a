"""Build data/fashion_mnist.zip from the gzipped IDX files of Debian's package dataset-fashion-mnist.

    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb extracted
    python data/make_fashion_mnist.py extracted/usr/share/datasets/fashion-mnist

The same Pillow and zlib give the same zip, byte for byte.
"""

import argparse
import gzip
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = (  # in the order of Fashion-MNIST's label numbers
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)
SPLITS = {"train": ("train", 2000), "val": ("t10k", 500)}  # folder in the zip: IDX file's prefix, images per class
BORDER = 2  # px of black on each side: 28 px become 32
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold


def read_idx(path: Path, header_bytes: int) -> np.ndarray:
    """The values of a gzipped IDX file of bytes as a flat uint8 array."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header_bytes)


def encode_png(pixels: np.ndarray) -> bytes:
    """A grey PNG, half the size of an RGB one that decodes to the same, of uint8 (H, W) with a black border added."""
    buffer = io.BytesIO()
    Image.fromarray(np.pad(pixels, BORDER)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def images(idx_folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names in the zip, which number images as the IDX file does, and PNGs of the first images of each class."""
    for split, (prefix, per_class) in SPLITS.items():
        labels = read_idx(idx_folder / f"{prefix}-labels-idx1-ubyte.gz", header_bytes=8)
        pixels = read_idx(idx_folder / f"{prefix}-images-idx3-ubyte.gz", header_bytes=16).reshape(-1, 28, 28)
        for label, name in enumerate(CLASSES):
            for position in np.flatnonzero(labels == label)[:per_class]:
                yield f"{split}/{name}/{position:05d}.png", encode_png(pixels[position])


def main() -> None:
    """Write fashion_mnist.zip beside this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("idx_folder", type=Path, help="folder that holds train-images-idx3-ubyte.gz and the others")
    output = Path(__file__).with_name("fashion_mnist.zip")
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for name, png in sorted(images(parser.parse_args().idx_folder)):
            entry = zipfile.ZipInfo(name, ZIP_EPOCH)
            entry.create_system = 3  # Unix, on every machine
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, png)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
