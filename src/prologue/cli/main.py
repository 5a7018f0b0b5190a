# PYTHON_ARGCOMPLETE_OK
"""The `prologue` command: models in use, and what DVC does not do of the pipeline."""

import argparse
import sys

import argcomplete

from prologue.cli import (
    compare,
    data,
    decode,
    describe,
    detect,
    doctor,
    encode,
    evaluate,
    export,
    first_look,
    importing,
    inspecting,
    play,
    sample,
    study,
    summary,
    variant,
    watch,
    watermark,
)
from prologue.core.errors import PrologueError
from prologue.core.launch import print_any_name

COMMANDS = (
    first_look,
    sample,
    play,
    encode,
    decode,
    export,
    inspecting,
    detect,
    watermark,
    evaluate,
    data,
    variant,
    importing,
    describe,
    watch,
    study,
    compare,
    summary,
    doctor,
)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="prologue",
        description="Draw from models with prologue tokens, and what DVC does not do of training them.",
        epilog="Exit status: 0 done, 1 something is wrong and was said, 2 the command line is not understood.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    return parser


def main() -> None:
    """Parse the command line and run one command; errors for the user, and of the file system, end with status 1."""
    parser = make_parser()
    argcomplete.autocomplete(parser)
    given = parser.parse_args()
    print_any_name()
    try:
        given.run(given)
    except (PrologueError, OSError) as error:
        print(f"prologue: {error}", file=sys.stderr)
        sys.exit(1)
