"""`prologue decode`: ids back to images."""

import argparse
from pathlib import Path

from prologue.cli.commands import Commands, add_command, counted

EXAMPLES = """\
  prologue decode encoded.npz                    a picture of all images, decoded.png
  prologue decode encoded.npz --output copies    a folder of PNGs; copies.npz would be an npz in the ADM layout"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "decode", "turn ids that `prologue encode` wrote back into images", EXAMPLES)
    parser.add_argument("ids", type=Path, help="npz of `prologue encode`")
    parser.add_argument("--model", help="as MODEL of `prologue sample`; the one that encoded")
    parser.add_argument(
        "--output", type=Path, default=Path("decoded.png"), help=".png, .webp, .npz or a folder (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Write the images. Raises PrologueError for ids that the model does not have."""
    from prologue.figures.grids import image_grid  # these need torch, which takes seconds to load
    from prologue.figures.samples import COLUMNS
    from prologue.generator.files import check_apart, check_output, read_ids, write_images
    from prologue.generator.folders import load_generator

    check_output(given.output)
    check_apart(given.output, [given.ids])
    generator = load_generator(given.model)
    tokens, names = read_ids(given.ids, generator.tokenizer)
    images = generator.pixels(tokens)
    recipe, each = generator.recipe(), {"decoded_from": names}
    files = [f"{image:06d}_{Path(name.replace('/', '-')).stem}" for image, name in enumerate(names)]
    write_images(given.output, images, None, files, lambda: image_grid(images, min(COLUMNS, len(images))), recipe, each)
    print(f"{counted(len(images), 'image')} of {given.ids}: {given.output}")
