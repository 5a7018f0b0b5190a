"""What the numbers behind a picture say, in words under it, whichever way they fall."""

from prologue.measures.registry import Metrics, find
from prologue.report.pages import number, percent

EVEN = 0.1  # by which a share may differ from even reading, relative to it, and count as even


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
    """Whether swapped prologues change the class; nothing where that was not measured."""
    own, other, kept = (find(metrics, name) for name in ("swapped_own", "swapped_other", "class_kept"))
    if own is None or other is None or kept is None:
        return ""
    images = metrics["evaluate_generation"]["swapped.images"]
    strongest = "the prologue changes the class" if other[1] > own[1] else "the class mostly stays"
    return (
        f"Of {images} such draws {percent(own[1])} look like their own class and {percent(other[1])} like that of the "
        f"prologue: {strongest}. (Nearest mean of features; of the guided samples {percent(kept[1])} look like theirs.)"
    )
