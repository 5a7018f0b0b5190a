"""`prologue try`: the first pictures, of the model that ships, on one page."""

import argparse
from pathlib import Path

from prologue.cli.commands import Commands, add_command, add_model

EXAMPLES = """\
  prologue try                   pictures of the last run's model, or of the one that ships, in try/index.html
  prologue try small             of the one that ships"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "try", "make a page of samples, held prologues and reconstructions", EXAMPLES)
    add_model(parser)
    parser.add_argument("--output", type=Path, default=Path("try"), help="folder of the page (default: %(default)s)")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Write the page and name it. Raises PrologueError where there is no model."""
    from prologue.generator.folders import load_generator  # these need torch, which takes seconds to load
    from prologue.report.first_look import write_first_look

    page = write_first_look(load_generator(given.model), given.output)
    print(f"Samples, held prologues and reconstructions: {page.resolve()}")
    print("Next: `prologue play` for a playground in the browser, `prologue sample --help` for images of your choice.")
