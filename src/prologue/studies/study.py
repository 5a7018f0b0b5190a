"""`prologue study`: plan a study, run what is missing, write what it found."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from prologue.core.errors import PrologueError
from prologue.core.params_file import load_params
from prologue.core.variants import override
from prologue.studies.definition import StudyDefinition, StudyRow, load_study, rows_at
from prologue.studies.experiments import run_rows
from prologue.studies.forecast import forecast
from prologue.studies.hours import StageHours
from prologue.studies.results import write_results
from prologue.studies.saved import current_row, kept_row, save_row

REPORTS = Path("reports/studies")
SHIPPED = Path("data/fashion_mnist.zip")  # the source that comes with the project


def print_plan(name: str, scale: str, seeds: list[int] | None, keep: bool, jobs: int) -> None:
    """Print each row of a study, the stages that DVC has cached for it, those that would run, and the hours they take.

    `keep`: as in `run`.

    Raises:
        PrologueError: as `load_study` and `rows_at`.
    """
    study, rows, folder = _opened(name, scale, seeds)
    table = Table("row", "seed", "cached", "to run", "hours", title=f"{study.title}, scale {scale}")
    measured = StageHours(folder, Path("reports/metrics"), load_params())
    hours: list[float | None] = []
    for row in rows:
        if found := current_row(row, study.stages, folder):
            table.add_row(row.label, str(row.seed), f"done: {found.commit[:10]}", "", "")
            continue
        if keep and (found := kept_row(row, folder)):
            table.add_row(row.label, str(row.seed), f"kept: {found.commit[:10]}", "", "")
            continue
        cached = forecast(override(row.overrides), study.stages)
        names = {
            known: ", ".join(stage for stage, is_cached in cached.items() if is_cached is known)
            for known in (True, False)
        }
        hours.append(measured.of([stage for stage, is_cached in cached.items() if not is_cached], row.params))
        shown = "?" if hours[-1] is None else f"{hours[-1]:.2g}"
        table.add_row(row.label, str(row.seed), names[True], names[False], shown)
    console = Console()
    console.print(table)
    console.print(
        f"{len(hours)} experiments to run, each up to {', '.join(study.stages)}. Rows share what they have in common."
    )
    known = [value for value in hours if value is not None]
    if known:
        console.print(
            f"About {sum(known):.2g} hours one after the other, {sum(known) / jobs:.2g} with {jobs} at once, by what "
            f"stages took in {measured.basis}; less where rows share stages, which the sum counts for each. "
            f"{len(hours) - len(known)} of unknown length."
        )


def run(
    name: str, scale: str, seeds: list[int] | None, keep: bool, jobs: int, write_page: Callable[[Path], Path]
) -> None:
    """Run the rows that are not done, then write the study's folder; also after Ctrl-C, with what is done by then.

    `seeds`: run with these instead of the study's own. `keep`: do not run rows again that other code has run with the
    same params. `write_page` makes the page of that folder and returns it.

    Raises:
        PrologueError: as `load_study`, `rows_at` and `run_rows`; also when rows failed, after the results are written.
    """
    study, rows, folder = _opened(name, scale, seeds)
    kept = [row for row in rows if keep and kept_row(row, folder)]
    missing = [row for row in rows if row not in kept and current_row(row, study.stages, folder) is None]
    try:
        run_rows(missing, study.stages, jobs, lambda row: save_row(row, study.stages, folder))
    finally:
        found = write_results(study, name, scale, [(row, save_row(row, study.stages, folder)) for row in rows], folder)
        print((folder / "table.md").read_text())
        print(f"{found.state}: {write_page(folder).resolve()}")
    failed = [row.label for row in found.rows if any(own.status == "failed" for own in row.runs)]
    if failed:
        raise PrologueError(f"{len(failed)} rows failed: {', '.join(failed)}; the table says why")


def _opened(name: str, scale: str, seeds: list[int] | None) -> tuple[StudyDefinition, list[StudyRow], Path]:
    """A study with its rows at a scale, and its folder."""
    study = load_study(name)
    if seeds is not None:
        study = study.model_copy(update={"seeds": seeds})
    rows = rows_at(study, name, scale)
    if scale == "imagenet" and rows[0].params.data.source == SHIPPED:
        raise PrologueError(f"the scale imagenet is of ImageNet: set data.source in params.yaml, which is {SHIPPED}")
    return study, rows, REPORTS / f"{name}-{scale}"
