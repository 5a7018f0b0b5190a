"""What a row of a study found for one seed, as a file that git keeps: rows/NAME.json in the study's folder.

DVC's experiments stay on the machine that ran them; these files do not, so that a study goes on anywhere. Each holds
its run's part of dvc.lock, by which it is known whether today's params and code would find the same. A row of one study
is that of any other with the same params, whatever its label there.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from prologue.core.dotted import flat
from prologue.core.files import parse_yaml, read_json, write_json
from prologue.core.variants import override
from prologue.measures.recorded import parse_metrics
from prologue.measures.registry import Metrics
from prologue.studies.definition import StudyRow
from prologue.studies.experiments import done_commit, git
from prologue.studies.forecast import is_current, is_of_source, needed_stages

ROWS = "rows"


class SavedRow(BaseModel):
    """A row's run: its experiment's commit, params by dotted key, metrics by stage, part of dvc.lock, the sweep."""

    commit: str
    params: dict[str, Any]
    metrics: Metrics
    lock: dict[str, Any]
    sweep: str | None = None


def current_row(row: StudyRow, stages: list[str], folder: Path) -> SavedRow | None:
    """What a row found, where today's params and code would find the same: as saved, or in DVC's experiments."""
    values = override(row.overrides)
    if (saved := earlier_row(row, folder)) and is_current(saved.lock, values, stages):
        return saved
    for path in sorted(
        set(folder.parent.glob(f"*/{ROWS}/*.json")) - {_file(row, folder)}
    ):  # of other rows, and so of other studies
        saved = read_saved(path)
        has_sweep = saved.sweep is not None or "sweep" not in stages
        if saved.params == flat(values) and has_sweep and is_current(saved.lock, values, stages):
            return saved
    commit = done_commit(row, stages)
    return None if commit is None else _of_experiment(commit, stages)


def earlier_row(row: StudyRow, folder: Path) -> SavedRow | None:
    """What a row has saved, whichever code and params.yaml it ran with; None where there is no such file."""
    path = _file(row, folder)
    return read_saved(path) if path.is_file() else None


def kept_row(row: StudyRow, folder: Path) -> SavedRow | None:
    """What a row has saved, whichever code it ran; None where it tells of other images or params."""
    saved, values = earlier_row(row, folder), row.params.model_dump(mode="json")
    alike = saved and saved.params.items() <= flat(values).items() and is_of_source(saved.lock, values)
    return saved if alike else None


def read_saved(path: Path) -> SavedRow:
    """A saved row's file."""
    return SavedRow.model_validate(read_json(path))


def save_row(row: StudyRow, stages: list[str], folder: Path) -> SavedRow | None:
    """Save what the row found, and return it; None where it is not done."""
    found = current_row(row, stages, folder)
    if found is not None:
        (folder / ROWS).mkdir(parents=True, exist_ok=True)
        write_json(_file(row, folder), found.model_dump(mode="json"))
    return found


def _file(row: StudyRow, folder: Path) -> Path:
    return folder / ROWS / f"{row.name}.json"


def _of_experiment(commit: str, stages: list[str]) -> SavedRow:
    """Read an experiment; what is not of `stages`, which it ran, or of what they need is of another run."""
    needed = needed_stages(stages)
    lock = parse_yaml(git("show", f"{commit}:dvc.lock"), f"{commit}:dvc.lock")["stages"]
    present = git("ls-tree", "--name-only", commit, "reports/metrics/", "reports/figures/sweep/").split()
    paths = {stage: f"reports/metrics/{stage}.json" for stage in needed}
    files = {stage: git("show", f"{commit}:{path}") for stage, path in paths.items() if path in present}
    sweep = "reports/figures/sweep/sweep.csv"
    return SavedRow(
        commit=commit,
        params=flat(parse_yaml(git("show", f"{commit}:params.yaml"), f"{commit}:params.yaml")),
        metrics=parse_metrics(files),
        lock={"stages": {stage: lock[stage] for stage in needed}},
        sweep=git("show", f"{commit}:{sweep}") if "sweep" in stages and sweep in present else None,
    )
