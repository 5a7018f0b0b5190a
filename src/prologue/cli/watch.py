"""`prologue watch`: a page of the curves of running trainings."""

import argparse

from prologue.cli.commands import Commands, add_command, positive

EXAMPLES = """\
  prologue watch                               beside a running `dvc repro`, in another terminal"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "watch", "keep a page of the curves of running trainings", EXAMPLES)
    parser.add_argument("--seconds", type=positive, default=10, help="between two versions (default: %(default)s)")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Keep the page up to date until Ctrl-C. Raises PrologueError where nothing was trained."""
    from prologue.report.live import watch  # matplotlib takes seconds to load

    watch(given.seconds)
