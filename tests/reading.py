"""Reading a source as it is, and what its manifest should say, for several test modules."""

import json
from pathlib import Path
from typing import Any

from image_files import class_files, params

from prologue.core.files import read_json
from prologue.data.shards import write_shards

Files = dict[str, bytes]
TWO = class_files(20, "cat", "dog")
HELD_OUT = (30, 10)  # of twice 20 images where no part validates


def read(source: Path, shards: Path, **changes: object) -> dict[str, Any]:
    """Manifest of the shards of a source, and in `counts` the images of each class."""
    settings = {"val_fraction": 0.1, "max_rejected": 0.01, "images_per_shard": 100}
    write_shards(params(source, **(settings | changes)), 0, shards)
    manifest = read_json(shards / "manifest.json")
    of_class = manifest["images_per_class"]
    totals = map(sum, zip(of_class["train"], of_class["val"], strict=True))
    return manifest | {"counts": dict(zip(manifest["class_names"], totals, strict=True))}


def expect(manifest: dict[str, Any], counts: dict[str, int], split: tuple[int, int], *said: str) -> None:
    """That a manifest has these classes and this split, and says these words of what was found."""
    assert manifest["counts"] == counts
    assert (manifest["train"]["images"], manifest["val"]["images"]) == split
    found = json.dumps(manifest["found"])
    assert [words for words in said if words not in found] == []
