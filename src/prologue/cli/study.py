"""`prologue study`: a table or figure of the paper as experiments."""

import argparse

from prologue.cli.commands import Commands, add_command, positive
from prologue.core.slots import most_jobs

EXAMPLES = """\
  prologue study table1 --plan                 its rows, what is done, the hours that are left
  prologue study table1 --scale small --seeds 3
  prologue study table1 --scale small --seeds 1-3    seeds 1, 2 and 3"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "study", "run a table or figure of the paper as experiments", EXAMPLES)
    parser.add_argument("name", help="of a file in studies/")
    parser.add_argument(
        "--scale",
        default="default",
        help="smoke, default, small_third, small, small_triple or imagenet (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds", type=_seeds, help="how many, 0, 1, ..., or from which to which: 1-3 (default: as the study says)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave rows as they are that other code has run with the same params"
    )
    parser.add_argument("--plan", action="store_true", help="only show what would run")
    parser.add_argument(
        "--jobs",
        type=positive,
        help="experiments at once, each on cores of its own (default: one per core; 1 beside a GPU)",
    )
    parser.set_defaults(run=run)


def _seeds(text: str) -> list[int]:
    """Seeds as an argument: `3` is 0, 1, 2, and `1-3` is 1, 2, 3. Raises ArgumentTypeError for anything else."""
    first, dash, last = text.partition("-")
    if not dash:
        return list(range(positive(text)))
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"{text} is no range of seeds, such as 1-3")
    return list(range(int(first), int(last) + 1))


def run(given: argparse.Namespace) -> None:
    """Show the plan of a study, or run it and print where its results are. Raises PrologueError as its parts do."""
    from prologue.report.study_page import write_study_page  # these need DVC, which takes seconds to load
    from prologue.studies.study import print_plan, run

    if given.plan:
        print_plan(given.name, given.scale, given.seeds, given.keep, given.jobs or most_jobs())
    else:
        run(given.name, given.scale, given.seeds, given.keep, given.jobs or most_jobs(), write_study_page)
