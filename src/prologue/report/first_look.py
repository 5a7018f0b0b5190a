"""The page of `prologue try`: what a trained model does, in three pictures."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, PackageLoader
from PIL import Image

from prologue.core.files import check_replaceable, replacing
from prologue.core.recipe import Origin, save_picture
from prologue.data.images import MANIFEST, ImageShards
from prologue.data.loader import view_batches
from prologue.data.order import evenly_spaced
from prologue.figures.grids import pair_grid
from prologue.figures.samples import table_grid
from prologue.generator.files import read_photo
from prologue.generator.generator import Generator

ROWS, COLUMNS = 10, 8
PAGE = "index.html"
DRAWN, SHOWN = ("samples", "held_prologues"), "reconstructions"  # pictures; the last has real images too
EXAMPLES = files("prologue.generator") / "examples"  # ten images of Fashion-MNIST, which the small model has not seen


def write_first_look(generator: Generator, output: Path) -> Path:
    """Write the folder `output`: index.html with samples, held prologues and reconstructions, where there are any.

    Returns the path of the page. Raises PrologueError where the folder holds something else.
    """
    own = {PAGE, *(f"{name}.png" for name in (*DRAWN, SHOWN))}
    check_replaceable(output, own if (output / f"{DRAWN[0]}.png").is_file() else ())  # a page alone is another's
    pictures = {"samples": _samples(generator, held=False)}
    if generator.ar.vocabulary.prologue_tokens:
        pictures["held_prologues"] = _samples(generator, held=True)
    real = _real_images(generator)
    if real is not None:
        pictures[SHOWN] = _reconstructions(generator, real)
    template = Environment(loader=PackageLoader("prologue.report"), autoescape=True).get_template("first_look.html")
    with replacing(output) as folder:
        folder.mkdir()
        for name, picture in pictures.items():
            origin: Origin = "trainedAlgorithmicMedia" if name in DRAWN else "compositeWithTrainedAlgorithmicMedia"
            recipe = generator.drawn_recipe(generator.cfg, seed=0) if name in DRAWN else generator.recipe()
            save_picture(picture, folder / f"{name}.png", "png", recipe | {"picture": name}, origin)
        page = template.render(name=generator.name, pictures=list(pictures), ships=generator.ships)
        (folder / PAGE).write_text(page)
    return output / PAGE


def _samples(generator: Generator, held: bool) -> Image.Image:
    """A row for each of the first classes; with `held`, its images share a prologue."""
    classes = list(range(min(ROWS, len(generator.classes))))
    labels = np.repeat(classes, COLUMNS).tolist()
    prologue = generator.held(generator.cfg, classes, 0).repeat_interleave(COLUMNS, dim=0) if held else None
    tokens = generator.sample(generator.cfg, labels, [(0, image) for image in range(len(labels))], prologue)
    rows = generator.pixels(tokens).reshape(len(classes), COLUMNS, *generator.image_shape)
    return table_grid(rows, [generator.classes[label] for label in classes])


def _real_images(generator: Generator) -> torch.Tensor | None:
    """Real images that the model has not seen, uint8 (N, 3, H, W); None where none are at hand."""
    size = generator.tokenizer.config.image_size
    if generator.ships:
        paths = sorted(EXAMPLES.iterdir(), key=lambda path: path.name)
        return torch.stack([read_photo(path.read_bytes(), size) for path in paths])
    shards = None if generator.project is None else generator.project / "data" / "shards"
    if shards is None or not (shards / MANIFEST).is_file():
        return None
    held_out = ImageShards(shards, "val")
    views, _ = next(view_batches(held_out, size, "center", evenly_spaced(len(held_out), ROWS), ROWS))
    return views[:, 0]


def _reconstructions(generator: Generator, images: torch.Tensor) -> Image.Image:
    """Real images above what the tokenizer makes of them."""
    copies = generator.pixels(generator.encode(images))
    return pair_grid(images.permute(0, 2, 3, 1).numpy(), copies, len(images))
