"""Training batches from the token cache against one .npy file per image, as other projects lay tokens out.

    python benchmarks/token_reading.py     # 20,000 images of 10 crops and 272 ids, batches of 256

Writes reports/benchmarks/token_reading.json.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sitting import Sitting

from prologue.core.files import write_json
from prologue.data.order import epoch_indices
from prologue.models.vocabulary import Vocabulary
from prologue.tokens.cache import TokenCache, ids_path

IMAGES, CROPS, SHARD, BATCH, STEPS, ROUNDS = 20_000, 10, 5000, 256, 20, 3
VOCABULARY = Vocabulary(
    visual_codebook=16384, prologue_codebook=1024, visual_tokens=256, prologue_tokens=16, classes=1000
)


def write_both(folder: Path) -> None:
    """The same ids as a token cache and as a file per image."""
    rng = np.random.default_rng(0)
    (folder / "train").mkdir()
    (folder / "files").mkdir()
    for shard in range(IMAGES // SHARD):
        ids = rng.integers(0, 1024, (SHARD, CROPS, VOCABULARY.length - 1), np.uint16)
        path = ids_path(folder, "train", shard)
        np.save(path, ids)
        np.save(path.with_suffix(".labels.npy"), np.zeros(SHARD, np.int64))
        for number, row in enumerate(ids, start=shard * SHARD):
            np.save(folder / "files" / f"{number}.npy", row)
    counts = {"train": {"images": IMAGES, "views": CROPS}}
    manifest = {"classes": ["x"], "counts": counts, "vocabulary": VOCABULARY.model_dump()}
    write_json(folder / "manifest.json", manifest)


def main() -> None:
    with tempfile.TemporaryDirectory() as name, Sitting() as sitting:
        folder = Path(name)
        write_both(folder)
        cache = TokenCache(folder, "train")

        def from_cache() -> None:
            for _ in cache.training_batches(0, BATCH, 0, STEPS, 0, 1):
                pass

        def from_files() -> None:
            rng = np.random.default_rng(0)
            for step in range(STEPS):
                _, indices = epoch_indices(IMAGES, 0, BATCH, step)
                np.stack([np.load(folder / "files" / f"{i}.npy")[rng.integers(CROPS)] for i in indices]).astype(
                    np.int64
                )

        sides: dict[str, Callable[[], None]] = {"own": from_cache, "files": from_files}
        best = dict.fromkeys(sides, 0.0)
        for _ in range(ROUNDS):
            for side, work in sides.items():
                began = time.perf_counter()
                work()
                best[side] = max(best[side], STEPS * BATCH / (time.perf_counter() - began))
    result = {f"{side}_images_per_second": round(rate) for side, rate in best.items()}
    sitting.write("token_reading", result | {"times_faster": round(best["own"] / best["files"], 1)})


if __name__ == "__main__":
    main()
