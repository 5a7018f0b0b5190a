"""`prologue summary`: the metrics of the last run, and where its report is."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prologue.cli.commands import Commands, add_command, shown
from prologue.core.errors import PrologueError
from prologue.core.stage import METRICS
from prologue.measures.recorded import read_metrics
from prologue.measures.registry import MOST, NAMED, Metrics, find, find_interval
from prologue.report.pages import ends

REPORT = Path("reports/index.html")

EXAMPLES = """\
  prologue summary                             the numbers that matter most
  prologue summary --all"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "summary", "print the metrics of the last run and where its report is", EXAMPLES)
    parser.add_argument("--all", action="store_true", help="all metrics of every stage, not the ones that matter most")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Print a table of metrics and the report's path. Raises PrologueError before the first run."""
    metrics = read_metrics(METRICS)
    if not metrics:
        raise PrologueError(f"no metrics in {METRICS}: run `dvc repro` first")
    console = Console()
    console.print(_everything(metrics) if given.all else _most(metrics))
    where = REPORT.resolve() if REPORT.is_file() else "not here; `dvc repro` writes it"
    console.print(f"Report: {where}", soft_wrap=True)
    if not given.all:
        console.print("All metrics: prologue summary --all")


def _most(metrics: Metrics) -> Table:
    """The numbers that matter most, with their 95 % intervals; it fits 80 columns."""
    table = Table("metric", "value", "95 % interval", "better")
    for name in MOST:
        hit, within = find(metrics, name), find_interval(metrics, name)
        if hit is not None:
            table.add_row(NAMED[name].label, shown(hit[1]), ends(within) if within else "", NAMED[name].better)
    return table


def _everything(metrics: Metrics) -> Table:
    table = Table("stage", "metric", "value")
    for stage, values in metrics.items():
        for name, value in values.items():
            table.add_row(stage, escape(name), escape(shown(value)))
        table.add_section()
    return table
