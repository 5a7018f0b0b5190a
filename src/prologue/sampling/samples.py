"""Sets of samples as files: images with guidance and without, in the ADM layout."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image

from prologue.core.errors import PrologueError
from prologue.core.files import remove
from prologue.core.params import Params
from prologue.core.recipe import Recipe, recipe_array, save_picture
from prologue.core.work import building, origin_of
from prologue.models.tokenizer import Tokenizer
from prologue.sampling.generation import TokenSampler
from prologue.sampling.images import sample_images


@contextmanager
def building_samples(
    params: Params, samplers: dict[str, TokenSampler], inputs: list[Path], output: Path, accelerator: Accelerator
) -> Iterator[Path]:
    """Yield a folder for samples and what is made of them; it takes `output`'s place when all is there.

    `inputs` are the files of the models. What a killed run of the same settings and models had drawn is in it.
    """
    marks = {run: sampler.watermark.fingerprint for run, sampler in samplers.items() if sampler.watermark}
    settings = params.sampling.model_dump(exclude={"rows", "files"}) | {"seed": params.seed, "marks": marks}
    with building(output, origin_of(settings, inputs, __file__), accelerator.wait_for_everyone) as folder:
        yield folder
        if accelerator.is_main_process:
            for leftover in folder.glob("*.npy"):
                remove(leftover)


def write_samples(
    params: Params,
    samplers: dict[str, TokenSampler],
    tokenizer: Tokenizer,
    labels: NDArray[np.int64],
    recipe: Recipe,
    folder: Path,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Write RUN.npz for the sampler of each run: arr_0, uint8 (N, H, W, 3), and arr_1, the labels int64 (N,).

    `folder` is of `building_samples`, where RUN.npy has the images too. Each npz carries `recipe` and the run. Every
    process samples a part of the images; a run that was killed goes on where it was. Returns the images per second of
    each run that had any to draw.
    """
    speed = {}
    for run, sampler in samplers.items():
        began, path = time.perf_counter(), folder / f"{run}.npy"
        images, drawn = sample_images(sampler, tokenizer, labels, (params.seed,), path, accelerator)
        if drawn:
            speed[run] = round(drawn / (time.perf_counter() - began), 1)
        if accelerator.is_main_process:
            made = recipe | {"run": run}
            np.savez(folder / f"{run}.npz", arr_0=images, arr_1=labels, recipe=recipe_array(made))
            _write_files(folder / run, images, params.sampling.files, made)
    return speed


def labels_like(
    known: NDArray[np.int64], names: list[str], wanted: list[str | int] | None, images: int
) -> NDArray[np.int64]:
    """Labels of the samples (images,): all classes in turn, or the wanted ones, each as often as among known labels.

    `known` (N,) are of the images that the samples are compared with: of another mixture of classes even a perfect
    generator's would be far from them.

    Raises PrologueError for a class that the model does not know, and where no known image is of a wanted one.
    """
    unknown = [name for name in wanted or [] if str(name) not in names]
    if unknown:
        raise PrologueError(f"sampling.classes: there is no class {unknown[0]!r}; known: {', '.join(names[:10])} ...")
    counts = np.bincount(known, minlength=len(names)).astype(np.float64)
    if wanted:
        counts[[name not in map(str, wanted) for name in names]] = 0
    if not counts.any():
        raise PrologueError("sampling.classes: none of these has an image to compare with")
    shares, drawn, labels = counts / counts.sum(), np.zeros(len(names)), np.empty(images, np.int64)
    for number in range(images):
        labels[number] = (shares * (number + 1) - drawn).argmax()  # which is the furthest behind
        drawn[labels[number]] += 1
    return labels


def _write_files(folder: Path, images: NDArray[np.uint8], kind: Literal["none", "png", "webp"], recipe: Recipe) -> None:
    """Write each image as FOLDER/NNNNNN.png or .webp (lossless) with its recipe, where files are wanted."""
    remove(folder)  # of a run that was killed, and may have wanted others
    if kind == "none":
        return
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        save_picture(Image.fromarray(image), folder / f"{number:06d}.{kind}", kind, recipe | {"image": number})
