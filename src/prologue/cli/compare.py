"""`prologue compare`: a page that compares two experiments, commits or branches."""

import argparse
from pathlib import Path

from prologue.cli.commands import Commands, add_command

COMPARISONS = Path("reports/comparisons")

EXAMPLES = """\
  prologue compare main                        the workspace against the branch main
  prologue compare my-experiment other         two experiments: params, metrics, samples of the same seeds"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "compare", "write a page that compares two experiments, commits or branches", EXAMPLES
    )
    parser.add_argument("first", help="anything that DVC or git resolves")
    parser.add_argument("second", nargs="?", default="workspace", help="the same (default: the %(default)s)")
    parser.add_argument("--images", type=int, default=20, help="samples of each run shown (default: %(default)s)")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Write the page and print its path. Raises PrologueError for an unknown revision."""
    from prologue.report.comparison import compare  # needs DVC, which takes seconds to load

    print(compare(given.first, given.second, COMPARISONS, given.images).resolve())
