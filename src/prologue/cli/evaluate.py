"""`prologue evaluate`: any samples measured against any real images."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prologue.cli.commands import Commands, add_command, positive, shown
from prologue.core.files import check_file, write_json
from prologue.core.launch import is_main_process

EXAMPLES = """\
  prologue evaluate samples.npz --reference VIRTUAL_imagenet256_labeled.npz
  prologue evaluate generated/ --reference photos/ --size 256"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "evaluate", "measure any npz or folder of images against real ones", EXAMPLES)
    parser.add_argument("samples", type=Path, help="npz with arr_0 (uint8 N, H, W, 3), or a folder of images")
    parser.add_argument("--reference", type=Path, help="the same, or ADM's statistics (default: data/reference)")
    parser.add_argument(
        "--extractor",
        choices=("lite2", "inception"),
        help="default: that of a reference of this project, else Inception where its weights are, else lite2",
    )
    parser.add_argument(
        "--size", type=positive, help="px to which images of folders are cropped (default: as they are)"
    )
    parser.add_argument("--batch", type=positive, default=32, help="images at once (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="also write the metrics to this JSON file")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Print and write the metrics. Raises PrologueError for what cannot be measured."""
    from prologue.evaluation.external import evaluate  # needs torch, which takes seconds to load

    if given.output:
        check_file(given.output)
    metrics = evaluate(given.samples, given.reference, given.extractor, given.size, given.batch)
    if not is_main_process():
        return
    table = Table("metric", "value")
    for name, value in metrics.items():
        table.add_row(name, escape(shown(value)))
    Console().print(table)
    if given.output:
        write_json(given.output, metrics)
