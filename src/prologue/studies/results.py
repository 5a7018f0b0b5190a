"""What a study found: study.json, the tables as Markdown and CSV, and its figures, in the study's folder."""

import io
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pandas as pd

from prologue.core.files import replacing
from prologue.figures.studies import Point, draw_chart
from prologue.measures.registry import Metrics
from prologue.measures.seeds import Contrast, contrast, spread
from prologue.studies.columns import column, intervals, measure
from prologue.studies.definition import StudyDefinition, StudyRow
from prologue.studies.experiments import failure, git, queue_states
from prologue.studies.hours import TRAININGS
from prologue.studies.saved import ROWS, SavedRow, earlier_row, kept_row
from prologue.studies.table import STUDY, Row, Run, Status, Study, StudyFigure
from prologue.studies.text import as_frame, as_markdown


@dataclass(frozen=True)
class Result:
    """What became of a row with one seed: what it saved where it is done, else why it failed, if it did."""

    row: StudyRow
    saved: SavedRow | None
    status: Status
    reason: str = ""

    @property
    def metrics(self) -> Metrics:
        """What it measured; nothing where it is not done."""
        return self.saved.metrics if self.saved else {}


def write_results(
    definition: StudyDefinition, name: str, scale: str, rows: list[tuple[StudyRow, SavedRow | None]], folder: Path
) -> Study:
    """Write study.json, tables and figures of all rows to `folder`, which keeps its files of saved rows.

    Each row is given with what it found with today's params and code. Of one that was not run with these, and has not
    failed, what it found before is told, as of earlier code, or as outdated where its params were others.
    """
    states = queue_states()
    results: dict[str, list[Result]] = {}
    for row, saved in rows:
        result = _result(row, saved, states.get(row.name) == "Failed", folder)
        results.setdefault(row.label, []).append(result)
    done = [result.metrics for own in results.values() for result in own if result.saved]
    columns = [column(key, done) for key in definition.columns]
    table = [_row(own, results.get(definition.baseline, []), definition) for own in results.values()]
    study = Study(
        name=name,
        title=definition.title,
        question=definition.question,
        scale=scale,
        commit=git("rev-parse", "HEAD").strip(),
        created=time.strftime("%Y-%m-%dT%H:%M:%S"),  # type: ignore[arg-type]  # pydantic reads it
        columns=columns,
        headline=definition.headline,
        seeds=definition.seeds,
        baseline=definition.baseline,
        rows=table,
    )
    with replacing(folder) as temporary:
        temporary.mkdir()
        if (folder / ROWS).is_dir():
            shutil.copytree(folder / ROWS, temporary / ROWS)
        study = study.model_copy(update={"figures": _draw(definition, results, temporary)})
        (temporary / STUDY).write_text(study.model_dump_json(indent=2) + "\n")
        as_frame(study).to_csv(temporary / "table.csv", index=False)
        (temporary / "table.md").write_text(as_markdown(study))
    return study


def _result(row: StudyRow, saved: SavedRow | None, failed: bool, folder: Path) -> Result:
    if saved:
        return Result(row, saved, "done")
    if failed:
        return Result(row, None, "failed", failure(row))
    if kept := kept_row(row, folder):
        return Result(row, kept, "earlier code")
    earlier = earlier_row(row, folder)
    return Result(row, earlier, "outdated" if earlier else "not run")


def _row(own: list[Result], baseline: list[Result], definition: StudyDefinition) -> Row:
    first, values = own[0].row, _by_seed(own, definition.columns)
    return Row(
        label=first.label,
        overrides={key: value for key, value in first.overrides.items() if key != "seed"},
        params=next((result.saved.params for result in own if result.saved), {}),
        runs=[_run(result, definition.columns) for result in own],
        metrics={key: fmean(found.values()) if found else None for key, found in values.items()},
        spread={key: spread(found) for key, found in values.items()},
        against_baseline=_against(own, baseline, definition.columns),
        paper=first.paper,  # type: ignore[arg-type]  # pydantic lets values be None
    )


def _run(result: Result, keys: list[str]) -> Run:
    return Run(
        seed=result.row.seed,
        status=result.status,
        reason=result.reason,
        commit=result.saved.commit if result.saved else "",
        precision=" and ".join(_precisions(result.metrics)),
        metrics=measure(keys, result.metrics),
        intervals=intervals(keys, result.metrics),
    )


def _precisions(metrics: Metrics) -> list[str]:
    """In which precision its trainings multiplied matrices."""
    return sorted({metrics[stage]["precision"] for stage in TRAININGS if "precision" in metrics.get(stage, {})})


def _by_seed(results: list[Result], keys: list[str]) -> dict[str, dict[int, float]]:
    """Values of each metric by seed, where they were measured."""
    found = {result.row.seed: measure(keys, result.metrics) for result in results}
    return {key: {seed: value for seed, own in found.items() if (value := own[key]) is not None} for key in keys}


def _against(own: list[Result], baseline: list[Result], keys: list[str]) -> dict[str, Contrast]:
    """How a row differs from the baseline in each metric that both have of some seed; nothing of the baseline."""
    if own is baseline:
        return {}
    values, others = _by_seed(own, keys), _by_seed(baseline, keys)
    return {key: found for key in keys if (found := contrast(values[key], others[key]))}


def swept_by_all(rows: list[list[Result]]) -> set[int]:
    """Seeds with which every row that has a sweep has one: means over others would not compare."""
    of_rows = [{result.row.seed for result in own if result.saved and result.saved.sweep} for own in rows]
    return set.intersection(*filter(None, of_rows)) if any(of_rows) else set()


def mean_sweep(own: list[Result], seeds: set[int]) -> pd.DataFrame | None:
    """A row's sweep, its first column the setting, in the mean over these seeds."""
    texts = [result.saved.sweep for result in own if result.saved and result.row.seed in seeds]
    tables = [pd.read_csv(io.StringIO(text)) for text in texts if text]
    return pd.concat(tables).groupby(tables[0].columns[0], as_index=False).mean() if tables else None


def _draw(definition: StudyDefinition, results: dict[str, list[Result]], folder: Path) -> list[StudyFigure]:
    """Draw the figures for which there are results."""
    points, baseline = [], results.get(definition.baseline, [])
    swept = swept_by_all(list(results.values()))
    papers = baseline[0].row.paper if baseline else {}
    for own in results.values():
        done = [result.saved for result in own if result.saved]
        if done:
            values = _by_seed(own, definition.measured)
            row, means = own[0].row, {key: fmean(found.values()) for key, found in values.items() if found}
            spreads = {key: over for key, found in values.items() if (over := spread(found)) is not None}
            sweep = mean_sweep(own, swept)
            against = {key: found for key, found in _against(own, baseline, list(values)).items() if found.ratio}
            paper = {key: row.paper[key] / value for key, value in papers.items() if key in row.paper}
            within = intervals(definition.measured, done[0].metrics) if len(done) == 1 else {}
            known = done[0].params | means
            points.append(Point(row.label, row.group or row.label, known, spreads, sweep, against, paper, within))
    everything = [result.metrics for own in results.values() for result in own if result.saved]
    labels = {key: column(key, everything).label for key in definition.measured}
    missing = [label for label, own in results.items() if not any(result.saved for result in own)]
    not_run = f" Not run: {'; '.join(missing)}." if missing else ""
    errors = (
        " Error bars of one seed are 95 % intervals over images." if any(point.interval for point in points) else ""
    )
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
                    caption=figure.caption + (errors if figure.kind in ("values", "lines") else "") + not_run,
                    alt=alt,
                )
            )
    return figures
