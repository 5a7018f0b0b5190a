"""The tables of a study as Markdown, as CSV, and in words."""

from typing import Any

import pandas as pd

from prologue.measures.seeds import Contrast
from prologue.studies.table import Column, Row, Study


def as_frame(study: Study) -> pd.DataFrame:
    """A row per run, measured columns first, then the paper's, which are named so."""
    return pd.DataFrame(
        [
            {
                "row": row.label,
                "seed": run.seed,
                "status": run.status,
                **{column.label: run.metrics.get(column.key) for column in study.columns},
                **{f"paper (ImageNet 256): {c.paper}": row.paper.get(c.key) for c in study.in_paper},
                "reason": run.reason,
                "commit": run.commit,
            }
            for row in study.rows
            for run in row.runs
        ]
    )


def as_markdown(study: Study) -> str:
    """The study as a Markdown page: means of the rows, then each row against the baseline."""
    papers = study.in_paper
    head = ["row", "status", *(c.label for c in study.columns), *(f"paper (ImageNet 256): {c.paper}" for c in papers)]
    lines = [
        [row.label, row.status + (f" ({row.reason})" if row.reason else "")]
        + [value_text(row, column) for column in study.columns]
        + [_plain(row.paper.get(column.key)) for column in papers]
        for row in study.rows
    ]
    seeds = ", ".join(map(str, study.seeds))
    foreign = " The paper's values are of ImageNet at 256 px and cannot be compared with those measured here."
    parts = [
        f"# {study.title}",
        study.question,
        f"Scale {study.scale}, seed {seeds}, commit {study.commit[:10]}: {study.state}. {meaning(study)}"
        + (foreign if papers else ""),
        markdown_table(head, lines),
    ]
    compared = [row for row in study.rows if row.against_baseline]
    if compared:
        lines = [
            [column.label, *(_compared(study, row, column) for row in compared)]
            for column in study.columns
            if any(column.key in row.against_baseline for row in compared)
        ]
        parts += [
            f"Against {study.baseline}: mean difference, and the ratio, each with its 95 % interval where there are "
            "several seeds (the ratio in the paper).",
            markdown_table([f"against {study.baseline}", *(row.label for row in compared)], lines),
        ]
    return "\n\n".join(parts) + "\n"


def meaning(study: Study) -> str:
    """What stands behind the numbers of the table."""
    statuses = {run.status for row in study.rows for run in row.runs}
    said = {
        "earlier code": " Rows of earlier code have the params and images of today.",
        "outdated": " Outdated is what other params or images found.",
    }
    return (
        _of_seeds(study) + "".join(text for status, text in said.items() if status in statuses) + _of_precision(study)
    )


def _of_precision(study: Study) -> str:
    """Which rows were trained in which precision, where they were not in the same."""
    rows: dict[str, list[str]] = {}
    for row in study.rows:
        for precision in sorted({run.precision for run in row.done} - {""}):
            rows.setdefault(precision, []).append(row.label)
    told = (f" Trained in {precision}: {'; '.join(labels)}." for precision, labels in rows.items())
    return "".join(told) if len(rows) > 1 else ""


def _of_seeds(study: Study) -> str:
    """Over what the numbers of the table are means, and what their intervals are."""
    seeds = {len(row.done) for row in study.rows} - {0}
    if seeds and min(seeds) > 1:
        return "Means over seeds, ± their standard deviation."
    alone = "small differences can be chance. [Intervals] are over images, 95 %."
    if not seeds or max(seeds) == 1:
        return f"One seed a row: {alone}"
    return f"Means over seeds, ± their standard deviation; of the rows of one seed {alone}"


def value_text(row: Row, column: Column) -> str:
    """A row's mean with its spread over seeds; of one seed with its interval over images, where one is known."""
    value, over = row.measured(column), row.spread.get(column.key)
    if value is None or over is not None:
        return _plain(value) + (f" ± {over:.2g}" if over is not None else "")
    within = row.done[0].intervals.get(column.key)
    return _plain(value) + (f" [{within[0]:.4g}, {within[1]:.4g}]" if within else "")


def contrast_text(found: Contrast | None) -> str:
    """A difference and ratio to the baseline, with their intervals where there are several seeds."""
    if found is None:
        return ""
    text = f"{found.difference:+.4g}"
    if found.low is not None:
        text += f" [{found.low:+.4g}, {found.high:+.4g}]"
    return f"{text}; ratio {found.ratio_text}" if found.ratio_text else text


def _compared(study: Study, row: Row, column: Column) -> str:
    """How a row differs from the baseline in a metric, and their ratio in the paper."""
    text = contrast_text(row.against_baseline.get(column.key))
    base, own = study.in_baseline(column), row.paper.get(column.key)
    return f"{text} ({own / base:.2f})" if text and own and base else text


def markdown_table(head: list[str], lines: list[list[str]]) -> str:
    """A table of Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100_000 else f"{value:.5g}"  # the larger are counts
