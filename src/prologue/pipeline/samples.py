"""The stage samples: images with guidance and without, and pictures of what the prologue holds."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from prologue.core.conventions import SAMPLING_RUNS
from prologue.core.files import read_json, replacing
from prologue.core.params import Params
from prologue.core.precision import settle
from prologue.core.recipe import Origin, Recipe, recipe_array, save_picture
from prologue.core.runtime import start_accelerator
from prologue.core.systems import trains_stage2
from prologue.core.work import earlier_sessions
from prologue.data.images import ImageShards
from prologue.data.loader import view_batches
from prologue.figures.samples import COLUMNS, class_grid, held_grid, swapped_grid, table_grid
from prologue.models.saved import load_ar, load_tokenizer
from prologue.models.tokenizer import Tokenizer
from prologue.models.weights import weights_sha256
from prologue.sampling.adopted import read_adopted, with_adopted
from prologue.sampling.generation import TokenSampler
from prologue.sampling.images import decode, token_samplers
from prologue.sampling.independent import independent_ids
from prologue.sampling.prologues import draw_held, draw_of_real, draw_swapped
from prologue.sampling.samples import building_samples, labels_like, write_samples
from prologue.sampling.watermark import marking
from prologue.tokens.cache import TokenCache

REAL = "real_prologue"  # the picture that shows real images too
SWAPPED_IMAGES = 200  # whose class is looked at when they are drawn with the prologue of another


def make_samples(
    params: Params,
    ar_folder: Path,
    tokenizer_folder: Path,
    tokens: Path,
    shards: Path,
    sweep: Path,
    output: Path,
    figures: Path,
) -> dict[str, Any]:
    """Sample `sampling.images` images in both runs and draw them; returns the stage's metrics.

    Each class is drawn as often as it is among the validation images, which the samples are compared with.
    Both runs take what the stage sweep chose where `sweep.adopt` says so. Beside OUTPUT/RUN.npz lie independent.npz and
    swapped.npz, yardsticks of the evaluation. Writes samples_RUN.png and, with a prologue, held_, real_prologue and
    swapped_prologues.png to `figures`. Images are marked where `sampling.watermark` is on, under the key that the
    environment holds.
    """
    accelerator, params = start_accelerator(), settle(params)
    adopted = read_adopted(sweep)
    params = params.model_copy(update={"sampling": with_adopted(params.sampling, adopted)})
    ar = load_ar(ar_folder, accelerator.device)
    tokenizer = load_tokenizer(tokenizer_folder, accelerator.device)
    names = read_json(tokens / "manifest.json")["classes"]
    real_labels = TokenCache(tokens, "val").labels
    labels = labels_like(real_labels, names, params.sampling.classes, params.sampling.images)
    watermark = marking(params.sampling.watermark.strength, tokenizer)
    samplers = token_samplers(ar, params.sampling, watermark)
    inputs = [*sorted(ar_folder.glob("*.*")), *sorted(tokenizer_folder.glob("*.*"))]
    settings = params.sampling.model_dump(include={"classes", "precision", "watermark", *SAMPLING_RUNS})
    weights = weights_sha256(tokenizer, ar)
    recipe = {"weights_sha256": weights, "seed": params.seed, "settings": settings}
    with building_samples(params, samplers, inputs, output, accelerator) as folder:
        speed = write_samples(params, samplers, tokenizer, labels, recipe, folder, accelerator)
        if accelerator.is_main_process:
            known = TokenCache(tokens, "train" if trains_stage2(params) else "val")  # else train is not cached
            _write_yardsticks(folder, samplers["cfg"], tokenizer, known, labels, recipe)
            drawn = {run: np.load(folder / f"{run}.npy", mmap_mode="r") for run in SAMPLING_RUNS}
            pictures = {f"samples_{run}": class_grid(images, labels, names) for run, images in drawn.items()}
            if ar.vocabulary.prologue_tokens:
                real, rows = ImageShards(shards, "val"), params.sampling.rows
                pictures |= _prologue_pictures(samplers["cfg"], tokenizer, names, real, rows, params.seed)
            _write_pictures(pictures, figures, recipe)
        earlier = earlier_sessions(folder)
    counts = np.bincount(labels, minlength=len(names))
    classes, compared = len(np.unique(labels)), len(np.unique(real_labels))
    if params.sampling.classes and classes < compared and accelerator.is_main_process:
        said = f"samples are of {classes} classes, and are compared with images of {compared}"
        print(f"warning: sampling.classes: {said}", file=sys.stderr)
    return {
        "images": len(labels),
        "classes": classes,
        "images_per_class": sorted({int(counts[counts > 0].min()), int(counts.max())}),
        "images_per_second": speed,
        "seed": params.seed,
        "weights_sha256": weights,
        "watermark_strength": params.sampling.watermark.strength,
        "adopted": adopted,
        "precision": params.sampling.precision,
        **earlier,
    }


def _write_pictures(pictures: dict[str, Image.Image], figures: Path, recipe: Recipe) -> None:
    """Write NAME.png of each to the folder `figures`, with the recipe and whether real images are in it."""
    with replacing(figures) as folder:
        folder.mkdir()
        for name, picture in pictures.items():
            origin: Origin = "compositeWithTrainedAlgorithmicMedia" if name == REAL else "trainedAlgorithmicMedia"
            save_picture(picture, folder / f"{name}.png", "png", recipe | {"picture": name}, origin)


def _write_yardsticks(
    folder: Path,
    sampler: TokenSampler,
    tokenizer: Tokenizer,
    cache: TokenCache,
    labels: NDArray[np.int64],
    recipe: Recipe,
) -> None:
    """Write what the samples are judged beside, as npz of images arr_0 and labels arr_1.

    independent.npz: as many images of ids that know nothing of each other, taken from training images where the cache
    has them: validation images are what they are compared with. swapped.npz, with a prologue: images drawn with the
    prologue of one of another class, whose labels are arr_2.
    """
    seed, size = recipe["seed"], tokenizer.config.image_size
    ids = independent_ids(cache, labels, seed)
    images = np.lib.format.open_memmap(folder / "independent.npy", "w+", np.uint8, (len(labels), size, size, 3))
    starts = range(0, len(ids), sampler.block)
    for start, part in zip(starts, ids.split(sampler.block), strict=True):
        images[start : start + len(part)] = decode(tokenizer, part.to(sampler.device))
    _save(folder / "independent.npz", recipe, images, labels)
    present = torch.from_numpy(np.unique(labels)).to(sampler.device)
    if sampler.vocabulary.prologue_tokens and len(present) > 1:
        classes = present[torch.arange(SWAPPED_IMAGES, device=sampler.device) % (len(present) // 2 * 2)]
        swapped = draw_swapped(sampler, tokenizer, classes, 1, seed)[:, 1]
        own = classes.cpu().numpy()
        _save(folder / "swapped.npz", recipe, swapped, own, own.reshape(-1, 2)[:, ::-1].ravel())


def _save(path: Path, recipe: Recipe, *arrays: NDArray[Any]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, *arrays, recipe=recipe_array(recipe | {"set": path.stem}))


def _prologue_pictures(
    sampler: TokenSampler, tokenizer: Tokenizer, names: list[str], real: ImageShards, rows: int, seed: int
) -> dict[str, Image.Image]:
    """Pictures of up to `rows` classes whose prologue is held, is that of a real image, or another class's."""
    chosen = np.unique(real.labels, return_index=True)[1][:rows]  # the first image of each class
    rows = min(rows, len(names))
    views, _ = next(view_batches(real, tokenizer.config.image_size, "center", chosen, len(chosen)))
    labels = torch.from_numpy(real.labels[chosen]).to(sampler.device)
    pairs = torch.arange(2 * max(1, rows // 2), device=sampler.device) % len(names)
    of_real = draw_of_real(sampler, tokenizer, views[:, 0].to(sampler.device), labels, COLUMNS - 2, seed)
    swapped = draw_swapped(sampler, tokenizer, pairs, (COLUMNS - 2) // 2, seed)
    return {
        "held_prologue": held_grid(draw_held(sampler, tokenizer, rows, COLUMNS, seed), names),
        REAL: table_grid(of_real, [names[label] for label in labels.tolist()]),
        "swapped_prologues": swapped_grid(swapped, pairs.tolist(), names),
    }
