"""`prologue doctor`: what this machine has of what Prologue uses, and what to do about what it lacks."""

import argparse
import json
import sys

from rich.console import Console
from rich.table import Table

from prologue.cli.commands import Commands

MARKS = {"good": "[green]good[/green]", "note": "[yellow]note[/yellow]", "bad": "[red]bad[/red]"}


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("doctor", help="say what this machine has and lacks, and what to do about it")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Print the findings; ends with status 1 where one of them is bad."""
    from prologue.pipeline.doctor import examine  # needs torch, which takes seconds to load

    findings = examine()
    if given.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        table = Table("what", "", "found", "what to do")
        for finding in findings:
            table.add_row(finding.what, MARKS[finding.state], finding.found, finding.advice)
        Console().print(table)
    if any(finding.state == "bad" for finding in findings):
        sys.exit(1)
