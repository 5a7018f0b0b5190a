"""The `prologue` command: what DVC does not do itself."""

import argparse
import sys

from prologue.cli import compare, data, describe, evaluate, importing, study, summary, variant, watch
from prologue.core.errors import PrologueError

COMMANDS = (data, variant, importing, describe, watch, evaluate, study, compare, summary)


def main() -> None:
    """Parse the command line and run one command; errors for the user end with status 1."""
    parser = argparse.ArgumentParser(prog="prologue", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    given = parser.parse_args()
    try:
        given.run(given)
    except PrologueError as error:
        print(f"prologue: {error}", file=sys.stderr)
        sys.exit(1)
