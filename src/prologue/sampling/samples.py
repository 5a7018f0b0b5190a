"""The samples stage: images with and without guidance, and figures that show what the prologue holds."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prologue.data.images import ImageShards
from prologue.errors import PrologueError
from prologue.figures.samples import draw_sample_figures
from prologue.files import read_json, remove
from prologue.fingerprint import fingerprint
from prologue.models.export import load_ar, load_tokenizer
from prologue.params import SAMPLING_RUNS, Params
from prologue.runtime import replacing_together, start_accelerator
from prologue.sampling.images import sample_images, token_samplers


def write_samples(
    params: Params, ar_folder: Path, tokenizer_folder: Path, tokens: Path, shards: Path, output: Path, figures: Path
) -> dict[str, Any]:
    """Sample `sampling.images` images with guidance (cfg.npz) and without (no_cfg.npz), in the ADM layout.

    arr_0 is uint8 (N, H, W, 3), arr_1 the labels int64 (N,). Classes take turns. Every process samples its share; a run
    that was killed goes on where it was. Returns the metrics of the stage.
    """
    accelerator = start_accelerator()
    ar = load_ar(ar_folder, accelerator.device)
    tokenizer = load_tokenizer(tokenizer_folder, accelerator.device)
    names = read_json(tokens / "manifest.json")["classes"]
    labels = class_turns(names, params.sampling.classes, params.sampling.images)
    samplers = token_samplers(ar, params.sampling)
    inputs = [*sorted(ar_folder.glob("*.*")), *sorted(tokenizer_folder.glob("*.*"))]
    settings = params.sampling.model_dump(exclude={"rows", "files"}) | {"seed": params.seed}
    speed = {}
    with replacing_together(output, accelerator, fingerprint(settings, inputs)) as folder:
        for run in SAMPLING_RUNS:
            began, path = time.perf_counter(), folder / f"{run}.npy"
            images = sample_images(samplers[run], tokenizer, labels, params.seed, path, accelerator)
            speed[run] = round(len(labels) / (time.perf_counter() - began), 1)
            if accelerator.is_main_process:
                np.savez(folder / f"{run}.npz", arr_0=images, arr_1=labels)
                _write_files(folder / run, images, params.sampling.files)
        if accelerator.is_main_process:
            for leftover in folder.glob("*.npy"):
                remove(leftover)
    if accelerator.is_main_process:
        samples = {run: np.load(output / f"{run}.npz")["arr_0"] for run in SAMPLING_RUNS}
        draw_sample_figures(
            figures, samples, labels, names, samplers["cfg"], tokenizer, ImageShards(shards, "val"), params
        )
    counts = np.bincount(labels, minlength=len(names))
    return {
        "images": len(labels),
        "classes": int((counts > 0).sum()),
        "images_per_class": sorted({int(count) for count in counts[counts > 0]}),
        "images_per_second": speed,
        "seed": params.seed,
        "precision": params.sampling.precision,
    }


def class_turns(names: list[str], wanted: list[str | int] | None, images: int) -> NDArray[np.int64]:
    """Labels of the samples (images,): all classes in turn, or the wanted ones.

    Raises PrologueError for a class that the model does not know.
    """
    unknown = [name for name in wanted or [] if str(name) not in names]
    if unknown:
        raise PrologueError(f"sampling.classes: there is no class {unknown[0]!r}; known: {', '.join(names[:10])} ...")
    labels = [names.index(str(name)) for name in wanted] if wanted else list(range(len(names)))
    return np.resize(np.array(labels, np.int64), images)


def _write_files(folder: Path, images: NDArray[np.uint8], kind: str) -> None:
    """Write each image as FOLDER/NNNNNN.png or .webp (lossless), where files are wanted."""
    if kind == "none":
        return
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:06d}.{kind}", lossless=True)
