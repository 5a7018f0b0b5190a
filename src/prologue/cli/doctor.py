"""`prologue doctor`: what this machine has of what Prologue uses, and what to do about what it lacks."""

import argparse
import json
import sys

from rich.console import Console
from rich.markup import escape

from prologue.cli.commands import Commands, add_command

COLOURS = {"good": "green", "note": "yellow", "bad": "red"}

EXAMPLES = """\
  prologue doctor                              exit status 1 where something stops work
  prologue doctor --json"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "doctor", "say what this machine has and lacks, and what to do about it", EXAMPLES)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Print the findings; ends with status 1 where one of them is bad."""
    from prologue.pipeline.doctor import examine  # needs torch, which takes seconds to load

    findings = examine()
    if given.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        console = Console(highlight=False)
        for what, state, found, advice in findings:
            console.print(f"[{COLOURS[state]}]{state}[/]  {what}: {escape(found)}", soft_wrap=True)
            if advice:  # on a line of its own, so that addresses and paths can be copied
                console.print(f"      {escape(advice)}", soft_wrap=True)
    if any(finding.state == "bad" for finding in findings):
        sys.exit(1)
