"""What the commands share."""

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # what `add_subparsers` returns


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the argument that says which model is used."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a project, an exported or published folder, or `small`, the model that ships "
        "(default: the project here once it has trained, else `small`)",
    )


def positive(text: str) -> int:
    """A whole number above 0, as an argument. Raises ArgumentTypeError for anything else."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def shown(value: object) -> str:
    """A value in a table."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
