# PYTHON_ARGCOMPLETE_OK
"""The `prologue` command: models in use, and what DVC does not do of the pipeline."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import argcomplete
from safetensors import SafetensorError

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
        epilog="Exit status: 0 done, 1 something is wrong and was said, 2 the command line is not understood, "
        "130 interrupted.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    return parser


def main() -> None:
    """Parse the command line and run one command; errors for the user, and of the file system, end with status 1."""
    parser = make_parser()
    argcomplete.autocomplete(parser)
    try:
        with _flags_for_dvc():
            given = parser.parse_args()
            print_any_name()
            given.run(given)
    except (PrologueError, OSError, SafetensorError) as error:
        print(f"prologue: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("prologue: interrupted", file=sys.stderr)
        sys.exit(130)


@contextmanager
def _flags_for_dvc() -> Iterator[None]:
    """What `variant` and `import` print is for `dvc exp run $(...)`, whose shell passes over our exit status.

    On any error they print a flag that DVC refuses: else it would run what was not asked for, for hours.
    """
    try:
        yield
    except BaseException as error:
        asked_for_help = isinstance(error, SystemExit) and not error.code
        if sys.argv[1:2] in (["variant"], ["import"]) and not asked_for_help and not sys.stdout.isatty():
            print("--prologue-failed")
        raise
