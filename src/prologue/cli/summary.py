"""`prologue summary`: the metrics of the last run, and where its report is."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from prologue.cli.commands import shown
from prologue.core.dotted import flat
from prologue.core.errors import PrologueError

if TYPE_CHECKING:
    from prologue.cli.commands import Commands

METRICS = Path("reports/metrics")
REPORT = Path("reports/index.html")


def add_to(commands: "Commands") -> None:
    """Add the command."""
    parser = commands.add_parser("summary", help="print the metrics of the last run and where its report is")
    parser.set_defaults(run=run)


def run(_: argparse.Namespace) -> None:
    """Print a table of every stage's metrics and the report's path. Raises PrologueError before the first run."""
    files = sorted(METRICS.glob("*.json"))
    if not files:
        raise PrologueError(f"no metrics in {METRICS}: run `dvc repro` first")
    table = Table("stage", "metric", "value")
    for file in files:
        for name, value in flat(json.loads(file.read_text())).items():
            table.add_row(file.stem, name, shown(value))
        table.add_section()
    console = Console()
    console.print(table)
    console.print(f"Report: {REPORT.resolve()}", soft_wrap=True)
