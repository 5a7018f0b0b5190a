"""`prologue study`: plan a study, run what is missing, write what it found."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from prologue.core.errors import PrologueError
from prologue.core.variants import override
from prologue.studies.definition import load_study, rows_at
from prologue.studies.experiments import done_commit, run_rows
from prologue.studies.forecast import forecast
from prologue.studies.results import write_results

REPORTS = Path("reports/studies")


def print_plan(name: str, scale: str) -> None:
    """Print each row of a study, the stages that DVC has cached for it, and those that would run.

    Raises:
        PrologueError: as `load_study` and `rows_at`.
    """
    study = load_study(name)
    table = Table("row", "experiment", "cached", "to run", title=f"{study.title}, scale {scale}")
    missing = 0
    for row in rows_at(study, name, scale):
        if commit := done_commit(row, study.stages):
            table.add_row(row.label, f"done: {commit[:10]}", "", "")
            continue
        missing += 1
        cached = forecast(override(row.overrides), study.stages)
        names = {
            known: ", ".join(stage for stage, is_cached in cached.items() if is_cached is known)
            for known in (True, False)
        }
        table.add_row(row.label, row.name, names[True], names[False])
    console = Console()
    console.print(table)
    console.print(
        f"{missing} experiments to run, each up to {', '.join(study.stages)}. Rows share what they have in common."
    )


def run(name: str, scale: str, jobs: int, write_page: Callable[[Path], Path]) -> None:
    """Run the rows that are not done, then write reports/studies/NAME; also after Ctrl-C, with what is done by then.

    `write_page` makes the page of that folder and returns it.

    Raises:
        PrologueError: as `load_study`, `rows_at` and `run_rows`; also when rows failed, after the results are written.
    """
    study = load_study(name)
    rows = rows_at(study, name, scale)
    folder = REPORTS / name
    try:
        run_rows(rows, study.stages, jobs)
    finally:
        found = write_results(study, name, scale, rows, folder)
        print((folder / "table.md").read_text())
        print(f"{found.state}: {write_page(folder).resolve()}")
    failed = [row.label for row in found.rows if row.status == "failed"]
    if failed:
        raise PrologueError(f"{len(failed)} rows failed: {', '.join(failed)}; the table says why")
