"""`prologue describe`: parts, parameters, FLOPs, tokens and bits per pixel of what params build."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from prologue.cli.commands import Commands, add_command, positive
from prologue.core.files import read_json
from prologue.core.params_file import load_params
from prologue.core.variants import apply_overrides, load_variants

if TYPE_CHECKING:
    from prologue.core.params import Params

MANIFEST = Path("data/shards/manifest.json")
IMAGENET_CLASSES = 1000
SIZED_BY_PARAMS = ("train", "published", "folder")  # the tokenizer.source of our own architecture

EXAMPLES = """\
  prologue describe                            what params.yaml builds
  prologue describe imagenet_b_b --classes 1000
  prologue describe imagenet_l_xl --gpus 8     and what each GPU needs of memory"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "describe", "print parts, parameters, FLOPs, tokens and bits per pixel", EXAMPLES)
    parser.add_argument("names", nargs="*", help="variants on top of params.yaml")
    parser.add_argument(
        "--classes", type=positive, help=f"of the dataset (default: those of the data here, else {IMAGENET_CLASSES})"
    )
    parser.add_argument("--gpus", type=positive, help="also estimate the memory of training on so many")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Print the tables. Raises PrologueError for an unknown variant, bad params, or GPUs that do not divide a batch."""
    from prologue.pipeline.describe import describe  # needs torch, which takes seconds to load

    params = apply_overrides(load_variants(given.names)) if given.names else load_params()
    classes = given.classes or _classes_here()
    described = describe(params, classes)
    memory = _memory(params, classes, given.gpus) if given.gpus else None
    table = Table("part", "layers x dim", "parameters", "paper's label", "GFLOPs per image")
    for part in described.parts:
        size = f"{part.size.layers} x {part.size.dim}" if part.size else ""
        table.add_row(part.name, size, f"{part.parameters:,}", part.paper, f"{part.flops / 1e9:.3g}")
    console = Console()
    console.print(table)
    if params.tokenizer.source not in SIZED_BY_PARAMS:
        console.print(
            "The tokenizer is imported: encoder and decoder are those that params.yaml would build, and so is what "
            "`attach` needs; `prologue import` tells of the real ones."
        )
    vocabulary = described.vocabulary
    tokens = f"{vocabulary.visual_tokens} visual tokens of {vocabulary.visual_codebook:,} codes"
    if vocabulary.prologue_tokens:
        prologue = f"{vocabulary.prologue_tokens} prologue tokens of {vocabulary.prologue_codebook:,} codes"
        tokens = f"{prologue}, EOS, {tokens}"
    size = f"{params.data.image_size} px, {classes:,} classes"
    console.print(f"{size}: {tokens}; {described.bits_per_pixel:.4f} BPP")
    flops = {part.name: part.flops / 1e9 for part in described.parts}
    console.print(f"Sampling with guidance: {2 * flops['AR'] + flops['decoder']:.3g} GFLOPs per image")
    console.print("Parameters include embeddings and codebooks. FLOPs: one forward pass, two per multiply-add.")
    if memory:
        console.print(memory)
        console.print(
            "An estimate. State: weights, gradients, moments, EMA, frozen networks. Fits: the largest micro-batch, set "
            "by PROLOGUE_MICRO_BATCH, that divides a GPU's images. Behind the strokes: with PROLOGUE_RECOMPUTE=1, "
            "which keeps less and computes a third more."
        )


def _memory(params: "Params", classes: int, gpus: int) -> Table:
    """What each GPU needs, and the micro-batches that fit. Raises PrologueError where GPUs do not divide a batch."""
    from prologue.pipeline.memory import CARDS, estimate

    fits = [f"fits {card} GB" for card in CARDS]
    table = Table("stage", "state, GB", "an image, MB", "images of a GPU", "all at once, GB", *fits)
    for stage, (memory, images) in estimate(params, classes, gpus).items():
        fitting = [
            " / ".join(str(memory.fitting(images, card, recompute) or "none") for recompute in (False, True))
            for card in CARDS
        ]
        each = f"{memory.kept / 1e6:.0f} / {memory.recomputed / 1e6:.0f}"
        all_at_once = f"{memory.total(images) / 1e9:.1f}"
        table.add_row(stage, f"{memory.state / 1e9:.2f}", each, str(images), all_at_once, *fitting)
    return table


def _classes_here() -> int:
    """How many classes the packed images of this project have; ImageNet's where none are packed."""
    return len(read_json(MANIFEST)["classes"]) if MANIFEST.is_file() else IMAGENET_CLASSES
