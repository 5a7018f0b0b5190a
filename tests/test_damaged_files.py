"""Whatever is in a source: it becomes a shard's image that decodes, or is in the manifest with its reason."""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import UNSPLIT, WRITERS, Writer, encoded, params, tar_paths
from PIL import Image

from prologue.core.files import read_json
from prologue.data.images import ImageShards
from prologue.data.shards import write_shards
from prologue.data.transforms import center_crop

FORMATS = {
    "PNG": ("RGB", "L", "LA", "RGBA", "P", "1", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "GIF": ("P", "L"),
    "TIFF": ("RGB", "L", "CMYK", "F", "I"),
    "BMP": ("RGB", "1"),
    "WEBP": ("RGB", "RGBA"),
    "PPM": ("RGB", "L"),
}
NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40
)


@st.composite
def image_files(draw: st.DrawFn) -> bytes:
    """A valid image file of any format, mode and size."""
    name = draw(st.sampled_from(sorted(FORMATS)))
    mode = draw(st.sampled_from(FORMATS[name]))
    width, height = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    pixels = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels)
    image = image.convert("L").convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = draw(st.integers(0, 9))
    return encoded(image, name, **({"exif": exif} if name in ("JPEG", "PNG", "WEBP") else {}))


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A valid file with bytes changed, cut out, doubled or cut off."""
    content = bytearray(draw(image_files()))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(("flip", "cut", "double", "truncate", "insert")))
        if kind == "flip" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[place : place + draw(st.integers(1, 50))]
        elif kind == "double":
            content[place:place] = content[: draw(st.integers(1, 200))]
        elif kind == "truncate":
            del content[place:]
        else:
            content[place:place] = draw(st.binary(max_size=30))
    return bytes(content)


FILES = st.lists(
    st.tuples(NAMES, st.one_of(image_files(), damaged_files(), st.binary(max_size=300))), min_size=8, max_size=16
)


@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=FILES, write=st.sampled_from(WRITERS))
def test_every_file_becomes_an_image_or_a_reason(files: list[tuple[str, bytes]], write: Writer) -> None:
    given_files = {f"odd/{number} {name}": content for number, (name, content) in enumerate(files)}
    given_files = {name: content for name, content in given_files.items() if len(name.encode()) < 200}
    with tempfile.TemporaryDirectory() as folder:
        source = write(UNSPLIT | given_files, Path(folder) / "source")
        metrics = write_shards(params(source, max_rejected=1.0, images_per_shard=7), 0, Path(folder) / "shards")
        shards = Path(folder) / "shards"
        kept = tar_paths(shards, "train") + tar_paths(shards, "val")
        manifest = read_json(shards / "manifest.json")
        rejected = [item["path"] for item in manifest["rejected"]]
        ignored = sum(count for counts in manifest["found"]["ignored"].values() for count in counts.values())
        assert Counter(kept + rejected) <= Counter([*UNSPLIT, *given_files])
        assert len(kept + rejected) + ignored == len(UNSPLIT | given_files)
        assert all(item["reason"] for item in manifest["rejected"])
        assert metrics["rejected"]["count"] == len(rejected)
        for split in ("train", "val"):
            images = ImageShards(shards, split)
            for position, path in enumerate(tar_paths(shards, split)):
                assert images.read(position) == (UNSPLIT | given_files)[path]
                assert center_crop(images.image(position), 8).shape == (8, 8, 3)
