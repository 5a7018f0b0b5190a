"""The `prologue` command: what DVC does not do itself."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from prologue.errors import PrologueError
from prologue.variants import experiment_flags, load_variants

METRICS = Path("reports/metrics")
REPORT = Path("reports/index.html")


def main() -> None:
    """Parse the command line and run one command; errors for the user end with status 1."""
    parser = argparse.ArgumentParser(prog="prologue", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    variant = commands.add_parser("variant", help="print named overrides as flags for `dvc exp run`")
    variant.add_argument("names", nargs="+", help="files of variants/, without .yaml; the last wins")
    commands.add_parser("summary", help="print the metrics of the last run and where its report is")
    arguments = parser.parse_args()
    try:
        if arguments.command == "variant":
            print(" ".join(experiment_flags(load_variants(arguments.names))))
        else:
            print_summary()
    except PrologueError as error:
        print(f"prologue: {error}", file=sys.stderr)
        sys.exit(1)


def print_summary() -> None:
    """Print a table of every stage's metrics and the report's path. Raises PrologueError before the first run."""
    files = sorted(METRICS.glob("*.json"))
    if not files:
        raise PrologueError(f"no metrics in {METRICS}: run `dvc repro` first")
    table = Table("stage", "metric", "value")
    for file in files:
        for name, value in _flatten(json.loads(file.read_text())).items():
            table.add_row(file.stem, name, f"{value:.5g}" if isinstance(value, float) else str(value))
        table.add_section()
    console = Console()
    console.print(table)
    console.print(f"Report: {REPORT.resolve()}", soft_wrap=True)


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
