"""`prologue summary`: the metrics of the last run, and where its report is."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from prologue.cli.commands import Commands, shown
from prologue.core.errors import PrologueError
from prologue.core.stage import METRICS
from prologue.measures.recorded import read_metrics

REPORT = Path("reports/index.html")


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("summary", help="print the metrics of the last run and where its report is")
    parser.set_defaults(run=run)


def run(_: argparse.Namespace) -> None:
    """Print a table of every stage's metrics and the report's path. Raises PrologueError before the first run."""
    metrics = read_metrics(METRICS)
    if not metrics:
        raise PrologueError(f"no metrics in {METRICS}: run `dvc repro` first")
    table = Table("stage", "metric", "value")
    for stage, values in metrics.items():
        for name, value in values.items():
            table.add_row(stage, name, shown(value))
        table.add_section()
    console = Console()
    console.print(table)
    console.print(f"Report: {REPORT.resolve()}", soft_wrap=True)
