"""What a study found: study.json, the table as Markdown and CSV, and its figures, in reports/studies/NAME/."""

import io
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from prologue.core.dotted import flat
from prologue.core.files import parse_yaml, replacing
from prologue.figures.studies import Point, draw_chart
from prologue.measures.recorded import parse_metrics
from prologue.measures.registry import Metrics
from prologue.studies.columns import column, measure
from prologue.studies.definition import StudyDefinition, StudyRow
from prologue.studies.experiments import done_commit, failure, git, queue_states
from prologue.studies.table import STUDY, Row, Study, StudyFigure


@dataclass(frozen=True)
class Result:
    """What became of a row: its experiment's commit, params and metrics where it is done, else why not."""

    row: StudyRow
    commit: str = ""
    params: dict[str, Any] | None = None
    metrics: Metrics | None = None
    sweep: pd.DataFrame | None = None
    reason: str | None = None  # of a failure


def collect(row: StudyRow, stages: list[str], states: dict[str, str]) -> Result:
    """Read a row's experiment from git; only the metrics of `stages`, which it ran, count.

    states: of DVC's queue, where a row that is not done may have failed.
    """
    commit = done_commit(row, stages)
    if commit is None:
        return Result(row, reason=failure(row) if states.get(row.name) == "Failed" else None)
    files = {stage: _show(commit, f"reports/metrics/{stage}.json") for stage in stages}
    sweep = _show(commit, "reports/figures/sweep/sweep.csv") if "sweep" in stages else None
    return Result(
        row,
        commit,
        flat(parse_yaml(_show(commit, "params.yaml") or "")),
        parse_metrics({stage: content for stage, content in files.items() if content is not None}),
        None if sweep is None else pd.read_csv(io.StringIO(sweep)),
    )


def write_results(definition: StudyDefinition, name: str, scale: str, rows: list[StudyRow], folder: Path) -> Study:
    """Collect all rows and write study.json, table.md, table.csv and the figures to `folder`."""
    states = queue_states()
    results = [collect(row, definition.stages, states) for row in rows]
    measured = [result.metrics for result in results if result.metrics is not None]
    columns = [column(key, measured) for key in definition.columns]
    table = [_row(result, definition) for result in results]
    study = Study(
        name=name,
        title=definition.title,
        question=definition.question,
        scale=scale,
        commit=git("rev-parse", "HEAD").strip(),
        created=time.strftime("%Y-%m-%dT%H:%M:%S"),  # type: ignore[arg-type]  # pydantic reads it
        columns=columns,
        rows=table,
    )
    with replacing(folder) as temporary:
        temporary.mkdir()
        study = study.model_copy(update={"figures": _draw(definition, results, temporary)})
        (temporary / STUDY).write_text(study.model_dump_json(indent=2) + "\n")
        as_frame(study).to_csv(temporary / "table.csv", index=False)
        (temporary / "table.md").write_text(as_markdown(study))
    return study


def _row(result: Result, definition: StudyDefinition) -> Row:
    row, status = result.row, "done" if result.commit else "failed" if result.reason else "not run"
    return Row.model_validate(
        {
            "label": row.label,
            "overrides": row.overrides,
            "status": status,
            "reason": result.reason or "",
            "commit": result.commit,
            "params": result.params or {},
            "metrics": measure(definition.columns, result.metrics or {}),
            "paper": row.paper,
        }
    )


def _draw(definition: StudyDefinition, results: list[Result], folder: Path) -> list[StudyFigure]:
    """Draw the figures for which there are results."""
    done = [result for result in results if result.metrics is not None]
    points = [
        Point(
            result.row.label,
            result.row.group or result.row.label,
            (result.params or {}) | measure(definition.measured, result.metrics or {}),
            result.sweep,
        )
        for result in done
    ]
    labels = {key: column(key, [r.metrics for r in done if r.metrics]).label for key in definition.measured}
    figures = []
    for number, figure in enumerate(definition.figures, start=1):
        file = f"figure_{number}.svg"
        alt = draw_chart(figure.chart, points, labels, folder / file)
        if alt is not None:
            figures.append(
                StudyFigure(
                    file=file,
                    png=file.replace("svg", "png"),
                    title=figure.title,
                    caption=figure.caption,
                    alt=alt,
                )
            )
    return figures


def as_frame(study: Study) -> pd.DataFrame:
    """The table: a row per experiment, measured columns first, then the paper's, which are named so."""
    return pd.DataFrame(
        [
            {
                "row": row.label,
                "status": row.status,
                **{column.label: row.metrics.get(column.key) for column in study.columns},
                **{f"paper (ImageNet 256): {c.paper}": row.paper.get(c.key) for c in study.columns if c.paper},
                "reason": row.reason,
                "commit": row.commit,
            }
            for row in study.rows
        ]
    )


def as_markdown(study: Study) -> str:
    """The study as a Markdown page."""
    frame = as_frame(study).drop(columns="commit")
    head = "| " + " | ".join(frame.columns) + " |\n|" + "---|" * len(frame.columns) + "\n"
    lines = ["| " + " | ".join(map(_cell, values)) + " |" for values in frame.itertuples(index=False)]
    return (
        f"# {study.title}\n\n{study.question}\n\nScale {study.scale}, commit {study.commit[:10]}. The paper's values "
        f"are of ImageNet at 256 px and cannot be compared with those measured here.\n\n{head}"
        + "\n".join(lines)
        + "\n"
    )


def _cell(value: Any) -> str:
    if value is None or value != value:  # NaN: not measured
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _show(commit: str, path: str) -> str | None:
    """A file's content in a commit; None where it is not there."""
    shown = subprocess.run(["git", "show", f"{commit}:{path}"], capture_output=True, text=True, check=False)
    return None if shown.returncode else shown.stdout
