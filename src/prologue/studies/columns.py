"""What the tables of studies compare: metrics of the registry, and accuracies of whichever tokens come first."""

import re

from prologue.measures.registry import NAMED, Metric, Metrics, find, find_interval
from prologue.studies.table import Column

FIRST_TOKENS = {f"top{k}": (f"prologue_top{k}", f"visual_top{k}") for k in (1, 5)}  # the first that a system has counts
KNOWN = (*NAMED, *FIRST_TOKENS)


def metrics_of(key: str) -> list[Metric]:
    """The metrics of a column's key, of which the first that was measured counts."""
    return [NAMED[name] for name in FIRST_TOKENS.get(key, (key,))]


def measure(keys: list[str], metrics: Metrics) -> dict[str, float | None]:
    """The values of some columns in the metrics of an experiment."""
    found = {key: _find(key, metrics) for key in keys}
    return {key: None if hit is None else hit[2] for key, hit in found.items()}


def intervals(keys: list[str], metrics: Metrics) -> dict[str, tuple[float, float]]:
    """The 95 % intervals over images of those columns that have one."""
    hits = {key: _find(key, metrics) for key in keys}
    found = {key: find_interval(metrics, hit[0].name) for key, hit in hits.items() if hit is not None}
    return {key: within for key, within in found.items() if within is not None}


def column(key: str, experiments: list[Metrics]) -> Column:
    """The table's column of a key, completed by the name under which the experiments recorded it."""
    metric = metrics_of(key)[0]
    label = "Linear probe, " + key if key in FIRST_TOKENS else metric.label
    hits = (_find(key, metrics) for metrics in experiments)
    names = [hit[1].rsplit(".", 1)[-1] for hit in hits if hit is not None]
    if names and key in FIRST_TOKENS:
        label = f"{label} ({re.sub(rf'^(prologue|visual_first[0-9]+)_|_{key}$', '', names[0]).replace('_', ', ')})"
    elif names and "distance" in metric.label:
        label = f"{label}, {names[0]}"
    return Column(key=key, label=label, better=metric.better, paper=metric.paper)


def _find(key: str, metrics: Metrics) -> tuple[Metric, str, float] | None:
    """The metric of a column that was measured, the key under which it was, and its value."""
    hits = ((metric, find(metrics, metric.name)) for metric in metrics_of(key))
    return next(((metric, *hit) for metric, hit in hits if hit is not None), None)
