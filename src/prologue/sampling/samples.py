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


def balanced_labels(names: list[str], wanted: list[str | int] | None, images: int) -> NDArray[np.int64]:
    """Labels of the samples (images,): all classes in turn, or the wanted ones.

    Raises PrologueError for a class that the model does not know.
    """
    unknown = [name for name in wanted or [] if str(name) not in names]
    if unknown:
        raise PrologueError(f"sampling.classes: there is no class {unknown[0]!r}; known: {', '.join(names[:10])} ...")
    labels = [names.index(str(name)) for name in wanted] if wanted else list(range(len(names)))
    return np.resize(np.array(labels, np.int64), images)


def _write_files(folder: Path, images: NDArray[np.uint8], kind: Literal["none", "png", "webp"], recipe: Recipe) -> None:
    """Write each image as FOLDER/NNNNNN.png or .webp (lossless) with its recipe, where files are wanted."""
    remove(folder)  # of a run that was killed, and may have wanted others
    if kind == "none":
        return
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        save_picture(Image.fromarray(image), folder / f"{number:06d}.{kind}", kind, recipe | {"image": number})
