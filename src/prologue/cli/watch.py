"""`prologue watch`: a page of the curves of running trainings."""

import argparse

from prologue.cli.commands import Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("watch", help="keep a page of the curves of running trainings")
    parser.add_argument("--seconds", type=int, default=10, help="between two versions (default: %(default)s)")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Keep the page up to date until Ctrl-C. Raises PrologueError where nothing was trained."""
    from prologue.report.live import watch  # matplotlib takes seconds to load

    watch(given.seconds)
