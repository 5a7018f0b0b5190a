"""Sharding against a plain Pillow and webdataset loop, and its memory on 200,000 images.

    python benchmarks/sharding.py      # both sides take turns on 8,000 photograph-like JPEGs

Writes reports/benchmarks/sharding.json.
"""

import io
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import yaml
from photos import write_photos
from PIL import Image
from sitting import Sitting

from prologue.core.files import remove
from prologue.core.params import DataParams
from prologue.core.params_file import load_params
from prologue.data.shards import write_shards

PHOTOS, ROUNDS, MANY = 8000, 2, 200_000


def plain(source: Path, output: Path) -> None:
    """Decode every file to see that it is an image, and write its bytes by webdataset."""
    import webdataset  # and with it torch, which the worker processes of the other side have no use for

    output.mkdir(parents=True)
    with webdataset.ShardWriter(str(output / "%06d.tar"), maxcount=1000, verbose=0) as writer:
        for number, path in enumerate(sorted(source.glob("*/*.jpg"))):
            data = path.read_bytes()
            Image.open(io.BytesIO(data)).load()
            writer.write({"__key__": f"{number:08d}", "jpg": data, "cls": path.parent.name.encode()})


def params_of(source: Path) -> DataParams:
    return load_params().data.model_copy(update={"source": source, "images_per_shard": 250})


def compare(folder: Path) -> dict[str, float]:
    """Fastest of several turns of each side."""
    write_photos(folder / "photos", PHOTOS)
    sides: dict[str, Callable[[Path], object]] = {
        "own": lambda output: write_shards(params_of(folder / "photos"), 0, output),
        "plain": lambda output: plain(folder / "photos", output),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, work in sides.items():
            remove(folder / name)
            began = time.perf_counter()
            work(folder / name)
            seconds[name].append(time.perf_counter() - began)
    rate = {name: PHOTOS / min(values) for name, values in seconds.items()}
    return {f"{name}_images_per_second": round(value) for name, value in rate.items()} | {
        "times_faster": round(rate["own"] / rate["plain"], 2)
    }


def memory(folder: Path) -> dict[str, int]:
    """Largest memory of any process of the stage `shards` over many small images in a zip."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (90, 120, 200)).save(buffer, "PNG")
    with zipfile.ZipFile(folder / "many.zip", "w") as archive:
        for number in range(MANY):
            archive.writestr(f"class {number % 100}/{number}.png", buffer.getvalue())
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["data"]["source"] = "many.zip"
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    began = time.perf_counter()
    subprocess.run([sys.executable, Path("stages/shards.py").resolve()], cwd=folder, check=True)
    seconds = time.perf_counter() - began
    return {
        "images": MANY,
        "largest_process_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        "images_per_second": round(MANY / seconds),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Sitting() as sitting:
        result = {"many": memory(Path(folder)), "photographs": compare(Path(folder))}
    sitting.write("sharding", result)


if __name__ == "__main__":
    main()
