"""`prologue variant`: named overrides as flags for `dvc exp run`."""

import argparse

from prologue.cli.commands import Commands, add_command
from prologue.core.variants import experiment_flags, load_variants

EXAMPLES = """\
  dvc exp run $(prologue variant smoke)        the whole DAG in two minutes
  dvc exp run $(prologue variant 2d smoke)     several compose"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "variant", "print named overrides as flags for `dvc exp run`", EXAMPLES)
    parser.add_argument("names", nargs="+", help="variants of variants/*.yaml; the last wins")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Print the flags. Raises PrologueError for an unknown variant or bad params."""
    print(" ".join(experiment_flags(load_variants(given.names))))
