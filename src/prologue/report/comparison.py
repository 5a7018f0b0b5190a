"""A page that compares two revisions: params that differ, metrics, and samples at the same seeds side by side."""

import re
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from prologue.core.errors import PrologueError
from prologue.figures.grids import READABLE_CELL
from prologue.measures.registry import METRICS, STAGES, Metric, interval_of, is_cost, is_interval, metric_of
from prologue.report.pages import embedded, ends, number, percent, text, write_page
from prologue.report.revisions import Revision, Samples, read_revision
from prologue.report.words import RUN_TITLES

GAP = 4  # white px between the two pictures of a pair
ABSENT = "none"
# Records of a protocol: metrics of two protocols do not compare.
PROTOCOL = re.compile(
    r"(tokenizer|attach|ar|samples): precision|(evaluate_\w+|probe): (.+\.)?"
    r"(extractor\w*|reference_\w+|shards_sha256|(val_)?images|split|crop|image_size|rounding|neighbours|weights|protocol|feature)"
)


def compare(first: str, second: str, folder: Path, images: int) -> Path:
    """Write FOLDER/FIRST_vs_SECOND/index.html; returns it.

    Args:
        first, second: anything that DVC or git resolves, or 'workspace'.
        folder: of all comparisons, in reports/.
        images: how many samples of each run are shown.

    Raises:
        PrologueError: a revision does not exist or holds no params or metrics, or `images` is below 1.
    """
    if images < 1:
        raise PrologueError(f"a comparison shows at least 1 image of each run, not {images}")
    one, other = read_revision(first, images), read_revision(second, images)
    output = folder / f"{_file_name(first)}_vs_{_file_name(second)}" / "index.html"
    measures, records = _metric_rows(one, other), _record_rows(one, other)
    write_page(
        "comparison.html",
        output,
        root="../../",
        one=one,
        other=other,
        params=_differing(one.params, other.params),
        params_alike=len(one.params.keys() & other.params.keys()) - len(_both_differ(one.params, other.params)),
        verdict=_verdict(one, other, [row for rows in measures.values() for row in rows]),
        measures=measures,
        costs=_cost_rows(one, other),
        records=records,
        protocol=[row["key"] for row in records if PROTOCOL.fullmatch(row["key"])],
        pairs={
            title: _pairs(one, other, run)
            for run, title in RUN_TITLES.items()
            if run in one.samples and run in other.samples
        },
        seeds=(one.params.get("seed"), other.params.get("seed")),
    )
    return output


def _file_name(revision: str) -> str:
    return re.sub(r"[^\w.-]+", "-", revision)


def _both_differ(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [key for key in one if key in other and one[key] != other[key]]


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of the keys whose values differ, or that only one has."""
    keys = list(dict.fromkeys(chain(one, other)))
    differing = [key for key in keys if key not in one or key not in other or one[key] != other[key]]
    return [
        {"key": key, "one": text(one.get(key, ABSENT), exact=True), "other": text(other.get(key, ABSENT), exact=True)}
        for key in differing
    ]


# Metrics.


def _keys(one: Revision, other: Revision) -> list[tuple[str, str]]:
    """Stage and key of every metric that either has, in the order of the DAG."""
    stages = [*STAGES, *sorted((one.metrics.keys() | other.metrics.keys()) - STAGES.keys())]
    return [
        (stage, key)
        for stage in stages
        for key in dict.fromkeys(chain(one.metrics.get(stage, {}), other.metrics.get(stage, {})))
    ]


def _metric_rows(one: Revision, other: Revision) -> dict[str, list[dict[str, Any]]]:
    """Rows of known metrics by stage, in the order of the report."""
    known = [(stage, key, metric) for stage, key in _keys(one, other) if (metric := metric_of(stage, key))]
    known.sort(key=lambda item: METRICS.index(item[2]))
    groups: dict[str, list[dict[str, Any]]] = {}
    for stage, key, metric in known:
        found = [revision.metrics.get(stage, {}) for revision in (one, other)]
        groups.setdefault(STAGES[stage], []).append(_metric_row(key, metric, *found))
    return groups


def _metric_row(key: str, metric: Metric, *found: dict[str, Any]) -> dict[str, Any]:
    """A metric of what a stage recorded in both; neither is better where their intervals have values in common."""
    (one, other), within = [values.get(key) for values in found], [interval_of(values, key) for values in found]
    row: dict[str, Any] = {"key": key, "label": metric.label, "better": metric.better}
    row |= {"difference": "", "change": "", "winner": ""}
    row |= {"one": _cell(one, metric.percent, within[0]), "other": _cell(other, metric.percent, within[1])}
    if not (isinstance(one, int | float) and isinstance(other, int | float)):
        return row
    change = other - one
    if not change:
        return row | {"difference": "equal", "change": 0}
    winner = "other" if (change > 0) == (metric.better == "higher") else "one"
    if within[0] and within[1] and max(within[0][0], within[1][0]) <= min(within[0][1], within[1][1]):
        winner = ""
    shown = f"{100 * change:+.1f} points" if metric.percent else f"{change:+.4g}"
    return row | {"difference": shown, "change": change, "winner": winner if metric.better else ""}


def _cell(value: Any, share: bool = False, within: tuple[float, float] | None = None) -> dict[str, Any]:
    """A value, and its interval, as text, and for sorting as a number."""
    if not isinstance(value, int | float):
        return {"text": ABSENT if value is None else text(value), "value": ""}
    shown = percent(value) if share else number(value)
    return {"text": f"{shown} {ends(within)}" if within else shown, "value": value}


def _cost_rows(one: Revision, other: Revision) -> list[dict[str, Any]]:
    """Times, sizes and speeds that either recorded."""
    rows = []
    for stage, key in _keys(one, other):
        if is_cost(key):
            before, after = one.metrics.get(stage, {}).get(key), other.metrics.get(stage, {}).get(key)
            ratio = after / before if before and after else ""
            rows.append({"stage": stage, "key": key, "one": _cell(before), "other": _cell(after), "ratio": ratio})
    return rows


def _record_rows(one: Revision, other: Revision) -> list[dict[str, str]]:
    """Settings, counts and hashes that the stages recorded differently: where they do, metrics may not compare."""
    rest = [
        {
            f"{stage}: {key}": value
            for stage, values in revision.metrics.items()
            for key, value in values.items()
            if not is_cost(key) and not is_interval(key) and metric_of(stage, key) is None
        }
        for revision in (one, other)
    ]
    return _differing(*rest)


def _verdict(one: Revision, other: Revision, rows: list[dict[str, Any]]) -> str:
    both = [row for row in rows if row["difference"] and row["better"]]
    if not both:
        return "No metric of which one value is better was measured in both."
    wins = {side: sum(row["winner"] == side for row in both) for side in ("one", "other")}
    equal = sum(row["difference"] == "equal" for row in both)
    open_ = len(both) - sum(wins.values()) - equal
    parts = [f"{one.name} is better on {wins['one']}", f"{other.name} on {wins['other']}"]
    if open_:
        parts.append(f"of {open_} the 95 % intervals overlap")
    if equal:
        parts.append(f"{equal} {'is' if equal == 1 else 'are'} equal")
    return f"Of {len(both)} metrics that both measured, {', '.join(parts)}."


# Samples.


def _pairs(one: Revision, other: Revision, run: str) -> list[dict[str, Any]]:
    """Pictures of the same sample indices, the first revision's at the left, and what they show in words."""
    first, second = one.samples[run], other.samples[run]
    count = min(len(first.images), len(second.images))
    return [
        {"index": index, "classes": _classes(first, second, index), "picture": embedded(_pair(first, second, index))}
        for index in range(count)
    ]


def _classes(first: Samples, second: Samples, index: int) -> str:
    return " | ".join(dict.fromkeys((first.classes[index], second.classes[index])))


def _pair(first: Samples, second: Samples, index: int) -> Image.Image:
    """Two pictures side by side on white, each enlarged without blur by the whole factor that fits the taller."""
    images = [Image.fromarray(samples.images[index]) for samples in (first, second)]
    height = max(READABLE_CELL, *(image.height for image in images))
    factors = [-(-height // image.height) for image in images]
    sized = [
        image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
        for image, factor in zip(images, factors, strict=True)
    ]
    pair = Image.new("RGB", (sum(image.width for image in sized) + GAP, max(image.height for image in sized)), "white")
    pair.paste(sized[0], (0, 0))
    pair.paste(sized[1], (sized[0].width + GAP, 0))
    return pair
