"""`prologue encode`: images as ids, and what becomes of them when the ids are decoded."""

import argparse
import json
import os
from pathlib import Path

from prologue.cli.commands import Commands, add_command, counted
from prologue.core.errors import PrologueError

PAIRS_PER_ROW, SHOWN = 8, 64
EXAMPLES = """\
  prologue encode photo.jpg                     ids in encoded.npz, the photo beside its reconstruction in encoded.png
  prologue encode photos/ --output photos.npz    every image of a folder
  prologue decode photos.npz --output copies     back to images"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "encode", "turn images into ids, and show their reconstructions", EXAMPLES)
    parser.add_argument("images", nargs="+", type=Path, help="image files, or folders of them; cropped square")
    parser.add_argument("--model", help="as MODEL of `prologue sample`")
    parser.add_argument(
        "--output", type=Path, default=Path("encoded.npz"), help="npz of the ids; the picture lies beside it as .png"
    )
    parser.add_argument("--json", action="store_true", help="print the ids as JSON, by file")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Write ids and picture, and say what they take. Raises PrologueError for a file that cannot be used."""
    import torch  # takes seconds to load, as what needs it does

    from prologue.core.files import check_file, replacing
    from prologue.core.recipe import save_picture
    from prologue.figures.grids import pair_grid
    from prologue.generator.files import TOKENIZER, check_apart, photo_paths, read_photos, write_ids
    from prologue.generator.folders import load_generator
    from prologue.measures.images import image_psnr
    from prologue.models.tokenizer import join_tokens
    from prologue.models.weights import weights_sha256
    from prologue.pipeline.describe import bits_per_pixel

    if given.output.suffix != ".npz":
        raise PrologueError(f"{given.output}: ids are written as .npz; the picture lies beside them as .png")
    picture = given.output.with_suffix(".png")
    check_file(given.output)
    check_file(picture)
    generator = load_generator(given.model)
    size, paths = generator.tokenizer.config.image_size, photo_paths(given.images)
    check_apart(picture, paths)
    if picture.exists():
        _check_own(picture)
    batches, measured = [], []
    for photos in read_photos(paths, size):
        batches.append(generator.encode(photos))
        copies = generator.pixels(batches[-1])
        measured.append(image_psnr(torch.from_numpy(copies).permute(0, 3, 1, 2), photos))
        if len(batches) == 1:  # a picture of thousands could be opened by nothing
            pairs = pair_grid(photos[:SHOWN].permute(0, 2, 3, 1).numpy(), copies[:SHOWN], PAIRS_PER_ROW)
    tokens, psnr = join_tokens(batches), torch.cat(measured)
    names, recipe = _names(paths), generator.recipe(**{TOKENIZER: weights_sha256(generator.tokenizer)})
    write_ids(given.output, tokens, names, recipe)
    with replacing(picture) as temporary:
        encoded = recipe | {"encoded": names[:SHOWN]}
        save_picture(pairs, temporary, "png", encoded, "compositeWithTrainedAlgorithmicMedia")
    bits = bits_per_pixel(generator.ar.vocabulary, size)
    if given.json:
        parts = {name: part.tolist() for name, part in tokens.named().items()}
        files = [
            {"file": str(path), "psnr": psnr[row].item(), **{name: ids[row] for name, ids in parts.items()}}
            for row, path in enumerate(paths)
        ]
        print(json.dumps({"model": generator.name, "bits_per_pixel": bits, "images": files}))
    else:
        print(
            f"{counted(len(paths), 'image')} at {size} px: {bits:.4f} bits per pixel, PSNR {psnr.mean().item():.2f} dB"
        )
        which = "originals" if len(paths) <= SHOWN else f"the first {SHOWN} originals"
        print(f"ids: {given.output}\n{which} beside their reconstructions: {picture}")


def _check_own(picture: Path) -> None:
    """Raise PrologueError for a picture that this project has not made, which nobody has named as an output."""
    from prologue.core.recipe import read_recipe

    try:
        read_recipe(picture)
    except PrologueError:
        raise PrologueError(
            f"{picture} is no picture of ours, and would be overwritten; give another --output"
        ) from None


def _names(paths: list[Path]) -> list[str]:
    """What images are called: their places in the folder that all lie in."""
    common = os.path.commonpath([path.absolute().parent for path in paths])
    return [path.absolute().relative_to(common).as_posix() for path in paths]
