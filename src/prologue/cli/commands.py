"""What the commands share."""

import argparse
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # what `add_subparsers` returns


def add_command(commands: Commands, name: str, purpose: str, examples: str) -> argparse.ArgumentParser:
    """Add a command whose help shows its purpose and examples, one `command   what it does` a line."""
    return commands.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the argument that says which model is used."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a project, an exported or published folder, or `small`, the model that ships "
        "(default: the project here once it has trained, else `small`)",
    )


def add_key(parser: argparse.ArgumentParser) -> None:
    """Add the argument that says where the watermark's key is."""
    parser.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="a file with the watermark's key (default: the environment's PROLOGUE_WATERMARK_KEY)",
    )


def positive(text: str) -> int:
    """A whole number above 0, as an argument. Raises ArgumentTypeError for anything else."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def seed(text: str) -> int:
    """A whole number, as an argument. Raises ArgumentTypeError for one below 0, and for anything else."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 0 on")
    return int(text)


def counted(count: int, what: str) -> str:
    """A number of things, such as `1 image` or `2 images`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def shown(value: object) -> str:
    """A value in a table."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
