"""`prologue detect`: whether images carry the watermark of a key."""

import argparse
import json
from pathlib import Path

from prologue.cli.commands import Commands, add_command, add_key, counted

EXAMPLES = """\
  prologue detect photo.jpg --key watermark.key              how likely chance alone makes it look marked
  prologue detect images/ --key watermark.key --json         every image of a folder
  prologue detect images/ --model path/to/model              with the key in PROLOGUE_WATERMARK_KEY"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "detect", "look for a watermark in images", EXAMPLES)
    parser.add_argument("images", nargs="+", type=Path, help="image files, or folders of them; cropped square")
    add_key(parser)
    parser.add_argument("--model", help="as MODEL of `prologue sample`: the one that may have drawn them")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Print a p-value for each image. Raises PrologueError for a file that cannot be used, and without a key."""
    import torch  # these take time to load
    from PIL import Image

    from prologue.generator.files import photo_paths, read_photos
    from prologue.generator.folders import load_generator
    from prologue.sampling.watermark import LEVEL, Watermark, read_key

    key, generator = read_key(given.key), load_generator(given.model)
    size, paths = generator.tokenizer.config.image_size, photo_paths(given.images)
    visual = torch.cat([generator.encode(batch).visual for batch in read_photos(paths, size)])
    reading = Watermark(key, generator.tokenizer).read(visual)
    findings = []
    for path, counted_tokens, green, p_value in zip(paths, *reading, strict=True):
        with Image.open(path) as image:
            resized = image.size != (size, size)
        findings.append(
            {
                "file": str(path),
                "p_value": float(p_value),
                "counted_tokens": int(counted_tokens),
                "green_tokens": int(green),
                "resized": resized,
            }
        )
    if given.json:
        print(json.dumps({"model": generator.name, "images": findings}))
        return
    for found in findings:
        note = f"; cropped and resized to {size} px, by which a mark can be lost" if found["resized"] else ""
        print(
            f"{found['file']}: p = {found['p_value']:.2g}, {found['green_tokens']} of {found['counted_tokens']} "
            f"tokens that count are green{note}"
        )
    low = int((reading.p_value <= LEVEL).sum())
    print(
        f"{low} of {counted(len(findings), 'image')} with p <= {LEVEL}; chance alone gives at most {LEVEL:.0%} of them"
    )
