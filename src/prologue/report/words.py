"""What the numbers behind a picture say, in words under it, whichever way they fall."""

import math

from prologue.measures.registry import Metrics, find
from prologue.report.pages import number, percent

EVEN = 0.1  # by which a share may differ from even reading, relative to it, and count as even
RUN_TITLES = {"cfg": "With guidance", "no_cfg": "Without guidance"}


def attention_in_words(metrics: Metrics) -> str:
    """Whether the prologue is read more or less than its size explains; nothing where that was not measured."""
    values = metrics.get("attention", {})
    share, even = (values.get(f"attention_to_prologue.{key}") for key in ("mean", "uniform"))
    if not share or not even:
        return ""
    ratio = share / even
    compared = "as much as" if abs(ratio - 1) < EVEN else f"{number(ratio)} times"
    verb = "more" if ratio > 1 else "less"
    tail = "" if abs(ratio - 1) < EVEN else f": it is read {verb} than evenly"
    return (
        f"Here the prologue gets {percent(share)} of the attention, {compared} what even reading would give it{tail}."
    )


def swapped_in_words(metrics: Metrics) -> str:
    """Whether the class or a swapped prologue says more, by two standard errors; nothing where it was not measured."""
    own, other, kept = (find(metrics, name) for name in ("swapped_own", "swapped_other", "class_kept"))
    if own is None or other is None:
        return ""
    images = metrics["evaluate_generation"]["swapped.images"]
    more = own[1] - other[1]
    error = math.sqrt((own[1] + other[1] - more**2) / images)
    strongest = "the class says more" if more > 0 else "the prologue says more"
    if abs(more) <= 2 * error:
        strongest = "which of both says more is not decided"
    theirs = f"; of the guided samples {percent(kept[1])} look like theirs" if kept else ""
    return (
        f"Of {images} such draws {percent(own[1])} look like their own class and {percent(other[1])} like that of the "
        f"prologue: {strongest}. (Nearest mean of features{theirs}.)"
    )
