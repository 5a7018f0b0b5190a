"""Whether a run worked: key figures beside their yardsticks, and the verdict that follows from them."""

import math
from dataclasses import dataclass
from typing import Literal

from prologue.core.params import Params
from prologue.core.systems import has_prologue, trains_both
from prologue.measures.registry import Metrics, find, find_interval
from prologue.report.pages import duration, ends, number, percent

CLOSER = (
    2  # times, that a generator which has learned its tokens is closer than one that knows only how often they come
)
Judged = Literal["met", "not met", "not decided", ""]


def _judge(low: float, high: float, least: float) -> Judged:
    """Whether a value with an interval is above `least`: noise decides nothing."""
    if low > least:
        return "met"
    return "not met" if high < least else "not decided"


@dataclass(frozen=True)
class Tile:
    """A key figure beside what would be good; `judged` is empty where nothing is judged: context, or not run."""

    label: str
    yardstick: str  # empty for what is never judged
    value: str = "not run"
    detail: str = ""
    sentence: str = ""  # the same in the words of the verdict
    judged: Judged = ""


def key_figures(params: Params, metrics: Metrics) -> list[Tile]:
    """The tiles of the front page, the first ones judged; without a prologue, those of the prologue are left out."""
    tiles = [_reconstruction_tile(metrics), _generation_tile(metrics), _usage_tile(metrics), _time_tile(metrics)]
    if has_prologue(params):
        tiles[2:2] = [_gain_tile(metrics), _nats_tile(metrics), _probe_tile(metrics)]
    return tiles


def _reconstruction_tile(metrics: Metrics) -> Tile:
    label, yardstick = "Reconstruction", "at least 20 dB (error a tenth of the range)"
    psnr = find(metrics, "psnr")
    if psnr is None:
        return Tile(label, yardstick)
    distance = find(metrics, "rfd")
    detail = f"{distance[0]} {number(distance[1])}, lower is better" if distance else ""
    sentence = f"Held-out images come back from their visual tokens at {number(psnr[1])} dB PSNR."
    return Tile(label, yardstick, f"{number(psnr[1])} dB", detail, sentence, _judge(psnr[1], psnr[1], 20))


def _generation_tile(metrics: Metrics) -> Tile:
    label, yardstick = "Generation", f"{CLOSER} times closer to reconstructions than ids drawn independently"
    gap, independent = (find(metrics, name) for name in ("gap", "independent"))
    within, others = (find_interval(metrics, name) for name in ("gap", "independent"))
    guided, plain = (find(metrics, name) for name in ("gfd", "gfd_plain"))
    if not (gap and independent and within and others and guided and plain):
        return Tile(label, yardstick)
    name = guided[0].removeprefix("cfg.")
    detail = (
        f"{name} to reconstructions {number(gap[1])} {ends(within)}, of independent ids {number(independent[1])} "
        f"{ends(others)}; to real images {_with_ends(metrics, 'gfd')} guided, {_with_ends(metrics, 'gfd_plain')} not"
    )
    sentence = (
        f"Generated images lie {number(guided[1])} from real ones by {name} with guidance and "
        f"{number(plain[1])} without{_own_gap(metrics)}."
    )
    ratio = independent[1] / gap[1]
    judged = _judge(others[0] / within[1], others[1] / max(within[0], 1e-9), CLOSER)
    return Tile(label, yardstick, f"{number(ratio)} times closer", detail, sentence, judged)


def _with_ends(metrics: Metrics, name: str) -> str:
    """A metric that was measured, and its interval where there is one."""
    hit, within = find(metrics, name), find_interval(metrics, name)
    assert hit is not None
    return number(hit[1]) + (f" {ends(within)}" if within else "")


def _own_gap(metrics: Metrics) -> str:
    """How much of the distance is the generator's own."""
    gap, floor, reconstruction = (find(metrics, name) for name in ("gap", "floor", "rfd"))
    if gap is None or floor is None or reconstruction is None:
        return ""
    return (
        f" (reconstructions lie {number(reconstruction[1])} away themselves; from those the guided images lie "
        f"{number(gap[1])}, as many other reconstructions would lie {number(floor[1])})"
    )


def _gain_tile(metrics: Metrics) -> Tile:
    label, yardstick = "Prologue is read", "another's costs more than 1 nat"
    gain = find(metrics, "prologue_gain")
    if gain is None:
        return Tile(label, yardstick)
    detail = (
        "more per image on its visual tokens with another's prologue of the same class: a wrong prologue misleads, so "
        "this is more than a right one brings"
    )
    sentence = f"An image's visual tokens cost {number(gain[1])} nats more with another's prologue than with its own."
    return Tile(label, yardstick, f"{number(gain[1])} nats", detail, sentence, _judge(gain[1], gain[1], 1))


def _nats_tile(metrics: Metrics) -> Tile:
    """What an image costs in all: to tell whether its prologue pays takes a model without one, which studies have."""
    total, prologue, visual = (find(metrics, name) for name in ("nats", "prologue_nats", "visual_nats"))
    if not (total and prologue and visual):
        return Tile("Nats per image", "")
    eos = total[1] - prologue[1] - visual[1]
    detail = f"prologue {number(prologue[1])} + EOS {number(max(eos, 0.0))} + visual {number(visual[1])}"
    return Tile("Nats per image", "", number(total[1]), f"{detail}; what it saves is seen beside a model without one")


def _probe_tile(metrics: Metrics) -> Tile:
    label, yardstick = "Linear probe of the prologue", "above the first visual tokens by two standard errors"
    prologue = find(metrics, "prologue_top1")
    visual = find(metrics, "visual_top1")
    if prologue is None or visual is None:
        return Tile(label, yardstick)
    detail = f"top-1 accuracy; {percent(visual[1])} on the first visual tokens"
    images = metrics["probe"]["val_images"]
    error = math.sqrt(sum(share * (1 - share) for share in (prologue[1], visual[1])) / images)
    more = prologue[1] - visual[1]
    judged = _judge(more - 2 * error, more + 2 * error, 0)
    return Tile(label, yardstick, percent(prologue[1]), detail, judged=judged)


def _usage_tile(metrics: Metrics) -> Tile:
    label, yardstick = "Codebook usage", "more than half of the visual codes"
    visual = find(metrics, "visual_usage")
    prologue = find(metrics, "prologue_usage")
    if visual is None:
        return Tile(label, yardstick)
    detail = "of the visual codes" + (f", {percent(prologue[1])} of the prologue codes" if prologue else "")
    return Tile(label, yardstick, percent(visual[1]), detail, judged=_judge(visual[1], visual[1], 0.5))


def _time_tile(metrics: Metrics) -> Tile:
    memory = max((values.get("peak_memory_mb", 0) for values in metrics.values()), default=0)
    detail = f"over {len(metrics)} stages; at most {memory:,} MB of memory" if metrics else ""
    return Tile("Wall time", "", total_time(metrics), detail)


def headline(tiles: list[Tile]) -> str:
    """Whether it worked, in one line: how many of the checks hold, and how many were not run."""
    judged = [tile.judged for tile in tiles if tile.judged]
    met, open_ = judged.count("met"), judged.count("not decided")
    missing = sum(bool(tile.yardstick) for tile in tiles) - len(judged)
    if not judged:
        return "Nothing to judge yet: the evaluation stages were not run."
    undecided = f", {open_} not decided" if open_ else ""
    if missing:
        return f"Incomplete: {met} of {len(judged)} checks hold{undecided}, {missing} not run."
    if met == len(judged):
        return f"It worked: all {met} checks hold."
    if met:
        return f"It worked in part: {met} of {len(judged)} checks hold{undecided}."
    if open_ == len(judged):
        return f"Not decided: of {open_} checks none holds, and none fails."
    return f"It did not work: no check holds{undecided}."


def verdict(params: Params, metrics: Metrics, tiles: list[Tile]) -> str:
    """One paragraph in plain words: what was trained on what, what came out, what falls short."""
    sentences = [tile.sentence for tile in tiles if tile.sentence]
    for judged in ("not met", "not decided"):
        short = [f"{tile.label.lower()} ({tile.value})" for tile in tiles if tile.judged == judged]
        if short:
            sentences.append(f"{judged.capitalize()}: {', '.join(short)}.")
    shards = metrics.get("shards", {})
    if {"train.images", "classes"} <= shards.keys():
        images = f"{shards['train.images']:,} images of {shards['classes']:,} classes at {params.data.image_size} px"
        sentences.insert(0, f"{_learned_from(params)} {images} ({params.data.source.name}).")
    return " ".join(sentences)


def _learned_from(params: Params) -> str:
    """What was trained and what imported, up to the images."""
    tokenizer, ar = params.tokenizer.source, params.ar.source
    if ar != "train":
        return f"The tokenizer and the AR model were imported ({ar}), and nothing was trained; the training set has"
    if tokenizer != "train":
        return f"An AR model learned from the ids that an imported tokenizer ({tokenizer}) makes of"
    return "A tokenizer and an AR model learned from"


def evidence(params: Params, metrics: Metrics) -> str:
    """How one can know, in a sentence or two."""
    images = metrics.get("shards", {}).get("val.images")
    unseen = "that no training saw" if trains_both(params) else "that no training here saw"
    held_out = f"on {images:,} validation images {unseen}" if images else "on held-out images"
    return (
        f"Every check compares a number with a yardstick that was set before the run, {held_out}; a distance that its "
        "95 % interval does not settle is not decided. "
        "None of them replaces looking: see the samples below."
    )


def total_time(metrics: Metrics) -> str:
    """Wall time of all stages that have run, as text."""
    seconds = sum(values.get("seconds", 0) for values in metrics.values())
    return duration(seconds) if metrics else "not run"
