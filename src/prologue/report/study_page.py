"""A page per study: its question, the table that answers it beside the paper's values, its figures; and the list."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

from PIL import Image

from prologue.report.pages import number, write_page
from prologue.studies.table import STUDY, Column, Row, Study, StudyFigure, Value, read_study
from prologue.studies.text import contrast_text, meaning, value_text


def write_study_page(folder: Path) -> Path:
    """Turn FOLDER/study.json into FOLDER/index.html and list all studies in the folder above.

    Pictures stay files of the folder. Returns the page.

    Raises:
        PrologueError: the study.json, or another of the list, is missing or holds no study.
    """
    study = read_study(folder / STUDY)
    paper = study.in_paper
    write_page(
        "study.html",
        folder / "index.html",
        root="../../",
        study=study,
        findings=list(findings(study).values()),
        table=[_table_row(study, row, paper) for row in study.rows],
        meaning=meaning(study),
        several_seeds=any(found.low is not None for row in study.rows for found in row.against_baseline.values()),
        paper=paper,
        figures=[_figure(folder, figure) for figure in study.figures],
        shared=_shared_params(study),
    )
    write_study_list(folder.parent)
    return folder / "index.html"


def write_study_list(folder: Path) -> Path:
    """Write the list of the studies below a folder. Raises PrologueError as `read_study`. Returns the page."""
    studies = {path.parent.name: read_study(path) for path in sorted(folder.glob(f"*/{STUDY}"))}
    listed = []
    for name, study in studies.items():
        found = findings(study)
        answer = found.get(study.headline) or next(iter(found.values()), "")
        listed.append({"folder": name, "study": study, "finding": answer})
    write_page("studies.html", folder / "index.html", root="../", studies=listed)
    return folder / "index.html"


def findings(study: Study) -> dict[str, str]:
    """What the table says of each column: which rows differ from the baseline, or the best; the paper's order."""
    sentences = {}
    for column in study.columns:
        if not column.better:
            continue
        ranked = _ranked(study, column)
        said = (_against_baseline(study, column) or _best(ranked, column)) + _paper_order(ranked, column)
        if said:
            sentences[column.key] = f"{column.label}:{said}"
    return sentences


def _best(ranked: list[tuple[Row, float]], column: Column) -> str:
    """Which row is best, and by how much, or that chance may decide it; empty of fewer than two."""
    if len(ranked) < 2:
        return ""
    (best, value), (second, next_value) = ranked[:2]
    if value == next_value:
        return f" {best.label} and {second.label} are equal with {number(value)}."
    differ = {row.label: best.differs(row, column.key) for row, _ in ranked[1:]}
    if near := [label for label, found in differ.items() if found is False]:
        return f" {best.label} has the best value, {number(value)}; not told from chance: {'; '.join(near)}."
    unknown = "" if differ[second.label] else " (one seed, chance is not known)"
    return f" {best.label} is best with {number(value)}, before {second.label} with {number(next_value)}{unknown}."


def _against_baseline(study: Study, column: Column) -> str:
    """Which rows differ from the baseline by more than chance; empty of one seed, or without a baseline."""
    contrasts = {row.label: row.against_baseline.get(column.key) for row in study.rows}
    known = {label: found for label, found in contrasts.items() if found and found.low is not None}
    if not known:
        return ""
    certain = [f"{label} ({contrast_text(found)})" for label, found in known.items() if found.is_certain]
    if not certain:
        return f" No row differs from {study.baseline} by more than chance."
    return f" Different from {study.baseline} by more than chance: {'; '.join(certain)}."


def _ranked(study: Study, column: Column) -> list[tuple[Row, float]]:
    """Measured rows of a metric, the best first; none while rows have different seeds, whose means do not compare."""
    measured = [(row, value) for row in study.rows if (value := row.measured(column)) is not None]
    if len({tuple(run.seed for run in row.done) for row, _ in measured}) > 1:
        return []
    return sorted(measured, key=lambda item: item[1], reverse=column.better == "higher")


def _paper_order(ranked: list[tuple[Row, float]], column: Column) -> str:
    """How many pairs of rows that differ stand in the paper's order; empty where it orders none of them."""
    sign = -1 if column.better == "higher" else 1
    same, pairs = 0, 0
    for (first, value), (second, other) in combinations(ranked, 2):
        paper, other_paper = first.paper.get(column.key), second.paper.get(column.key)
        if paper is None or other_paper is None or paper == other_paper or not first.differs(second, column.key):
            continue
        pairs += 1
        same += value != other and sign * (other_paper - paper) > 0
    if not pairs:
        return ""
    what = "pairs of rows that differ by more than chance"
    return f" {same} of {pairs} {what} {'stands' if same == 1 else 'stand'} in the paper's order."


def _table_row(study: Study, row: Row, paper: list[Column]) -> dict[str, Any]:
    best = {column.key: ranked[0][1] for column in study.columns if len(ranked := _ranked(study, column)) > 1}
    measured = [(column, row.measured(column)) for column in study.columns]
    return {
        "row": row,
        "measured": [
            {
                "text": value_text(row, column),
                "value": "" if value is None else value,
                "best": bool(column.better) and value is not None and value == best.get(column.key),
            }
            for column, value in measured
        ],
        "contrasts": [contrast_text(row.against_baseline.get(column.key)) for column in study.columns],
        "paper": [_cell(row.paper.get(column.key)) for column in paper],
    }


def _cell(value: Value) -> dict[str, Any]:
    return {"text": "" if value is None else number(value), "value": "" if value is None else value}


def _figure(folder: Path, figure: StudyFigure) -> dict[str, Any]:
    """What the page needs of a figure; `file` is empty where it was not drawn, the size 0 where it is not known."""
    files = [name for name in (figure.file, figure.png) if name and (folder / name).is_file()]
    width, height = 0, 0
    for name in files:
        if name.endswith(".png"):
            with Image.open(folder / name) as image:
                width, height = image.size
    return figure.model_dump() | {"file": next(iter(files), ""), "width": width, "height": height}


def _shared_params(study: Study) -> str:
    """The params that every row which has any has alike, one a line."""
    known = [row.params for row in study.rows if row.params]
    if not known:
        return ""
    first, *others = known
    alike = {key: value for key, value in first.items() if all(params.get(key) == value for params in others)}
    return "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in alike.items())
