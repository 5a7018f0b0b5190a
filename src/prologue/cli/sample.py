"""`prologue sample`: images of a trained model, drawn as the stage samples draws them."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prologue.cli.commands import Commands, add_command, add_key, add_model, counted, positive, seed
from prologue.core.errors import PrologueError

if TYPE_CHECKING:  # needs torch, which takes seconds to load
    from prologue.core.params import GuidedRunParams
    from prologue.generator.generator import Generator

IMAGES, HELD_OF_CLASS, HELD_CLASSES = 16, 8, 10
EXAMPLES = """\
  prologue sample                                           16 images of the last run, or of the model that ships
  prologue sample --classes sneaker,bag --guidance 3        of two classes, with more guidance
  prologue sample --hold-prologue --output held.png         a row for each class, whose images share a prologue
  prologue sample --prologue-from photo.jpg --classes coat  images with the prologue of a photo
  prologue sample --watermark 3 --key watermark.key --output marked    images that `prologue detect` recognises
  prologue sample path/to/model --images 1000 --output samples.npz"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "sample", "draw images from a trained model", EXAMPLES)
    add_model(parser)
    parser.add_argument("--classes", help="names, divided by commas (default: all classes, in turn)")
    parser.add_argument(
        "--images",
        type=positive,
        help=f"how many (default: {IMAGES} or as many as photos; {HELD_OF_CLASS} of each class that is held)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="image i has seed (SEED, i), as in the stage samples")
    for segment, flag in (("visual", ""), ("prologue", "prologue-")):
        what = f"of the {segment} tokens (default: as the model was sampled"
        parser.add_argument(f"--{flag}guidance", type=float, help=f"guidance {what}; 1 = none)")
        parser.add_argument(f"--{flag}temperature", type=float, help=f"temperature {what})")
    parser.add_argument(
        "--watermark",
        type=float,
        metavar="STRENGTH",
        help="mark the images, 0 = not (default: as the project does; exports do not)",
    )
    add_key(parser)
    held = parser.add_mutually_exclusive_group()
    held.add_argument(
        "--prologue-from", type=Path, metavar="PHOTO", help="hold the prologue of a photo, or those of a folder in turn"
    )
    held.add_argument("--hold-prologue", action="store_true", help="draw one prologue for each class and hold it")
    parser.add_argument(
        "--output", type=Path, default=Path("samples.png"), help=".png, .webp, .npz or a folder (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print what was drawn, ids included, as JSON")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Write the images and say where. Raises PrologueError for an unknown class and whatever cannot be drawn."""
    import torch  # takes seconds to load, as what needs it does

    from prologue.figures.samples import turns_grid
    from prologue.generator.files import check_apart, check_output, photo_paths, read_photos, write_images
    from prologue.generator.folders import load_generator

    check_output(given.output)
    generator = _marking(load_generator(given.model), given)
    chosen = list(range(len(generator.classes)))
    if given.classes is not None:
        chosen = generator.labels_of(generator.classes_in(given.classes))
    if given.hold_prologue and given.classes is None:
        chosen = chosen[:HELD_CLASSES]
    photos = photo_paths([given.prologue_from]) if given.prologue_from else []
    check_apart(given.output, photos)
    count = given.images or (HELD_OF_CLASS * len(chosen) if given.hold_prologue else max(IMAGES, len(photos)))
    photos = photos[:count]
    labels = [chosen[image % len(chosen)] for image in range(count)]
    settings, prologue = _settings(generator, given), None
    if given.hold_prologue:
        held = generator.held(settings, chosen, given.seed)
        prologue = held[[image % len(chosen) for image in range(count)]]
    elif photos:
        batches = read_photos(photos, generator.tokenizer.config.image_size)
        prologues = torch.cat([generator.prologue_of(batch) for batch in batches])
        prologue = prologues[[image % len(prologues) for image in range(count)]]
    tokens = generator.sample(settings, labels, [(given.seed, image) for image in range(count)], prologue)
    images, names = generator.pixels(tokens), [generator.classes[label] for label in labels]
    files = [f"{image:06d}_{name.replace('/', '-')}" for image, name in enumerate(names)]
    drawn, each = generator.drawn_recipe(settings, seed=given.seed), {"classes": names}
    if photos or given.hold_prologue:
        drawn["prologue"] = f"of {counted(len(photos), 'photo')}" if photos else "held by class"
    write_images(given.output, images, labels, files, lambda: turns_grid(images, names, len(chosen)), drawn, each)
    if given.json:
        ids = {name: part.tolist() for name, part in tokens.named().items()}
        print(json.dumps({**drawn, **each, "output": str(given.output), **ids}))
    else:
        print(f"{counted(count, 'image')} of {generator.name}: {given.output}")


def _marking(generator: "Generator", given: argparse.Namespace) -> "Generator":
    """The generator with the watermark that is asked for, under the key that is given."""
    strength = generator.watermark_strength if given.watermark is None else given.watermark
    if not 0 <= strength < float("inf"):
        raise PrologueError(f"--watermark: {strength} is no strength; 0 is off, 3 is found again in most images")
    if given.key and not strength:
        raise PrologueError("--key marks nothing, as the model's watermark is off; give a strength too: --watermark 3")
    return replace(generator, watermark_strength=strength, key=given.key)


def _settings(generator: "Generator", given: argparse.Namespace) -> "GuidedRunParams":
    """The settings of the model's own samples with those that are given in their place.

    Raises PrologueError for a value out of range, and for one of a prologue that the model does not have.
    """
    asked = {
        f"{segment}.{key}": getattr(given, f"{prefix}{key}")
        for segment, prefix in (("visual", ""), ("prologue", "prologue_"))
        for key in ("guidance", "temperature")
    }
    changed = {axis: value for axis, value in asked.items() if value is not None}
    of_prologue = [f"--{axis.replace('.', '-')}" for axis in changed if axis.startswith("prologue.")]
    if of_prologue and not generator.ar.vocabulary.prologue_tokens:
        raise PrologueError(f"{of_prologue[0]} changes nothing, as {generator.name} has no prologue; leave it out")
    return generator.settings(changed)
