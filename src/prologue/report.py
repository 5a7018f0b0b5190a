"""The report: one self-contained HTML page that says whether it worked, how that is known, and what it cost."""

import base64
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from prologue.errors import PrologueError
from prologue.figures.curves import training_curves
from prologue.files import read_json, replacing
from prologue.params import Params

Metrics = dict[str, dict[str, Any]]  # stage -> flat metrics; a stage that has not run is absent

STAGES = {
    "shards": "Images packed into shards",
    "reference": "Statistics of the real images",
    "plan": "Plan of the trainings",
    "tokenizer": "Tokenizer (Stage 1)",
    "attach": "Prologue for a frozen tokenizer",
    "tokens": "Token cache",
    "ar": "AR model (Stage 2)",
    "samples": "Sampling",
    "attention": "Attention of the AR model",
    "evaluate_reconstruction": "Evaluation of reconstruction",
    "evaluate_likelihood": "Likelihood of validation tokens",
    "evaluate_generation": "Evaluation of generation",
    "sweep": "Sweep of a sampling setting",
    "probe": "Linear probe",
}
COST = re.compile(r"seconds|peak_memory_mb|steps|parameters(\..+)?|state_mb\..+|.*_per_second(\..+)?")


@dataclass(frozen=True)
class Measure:
    """A known metric: where it is recorded, what it is called, which direction is better, the paper's value."""

    stage: str
    key: str  # regular expression of the flat key; the extractor's name is part of the key
    label: str
    better: str
    paper: str = ""
    percent: bool = False


MEASURES = (
    Measure("evaluate_reconstruction", r"rfd_\w+|rfid", "Reconstruction distance", "lower", "rFID 2.24"),
    Measure("evaluate_reconstruction", r"psnr", "PSNR, dB", "higher", "20.64"),
    Measure("evaluate_reconstruction", r"ssim", "SSIM", "higher"),
    Measure("evaluate_reconstruction", r"lpips|perceptual_\w+", "Perceptual distance", "lower"),
    Measure("evaluate_reconstruction", r"visual_usage", "Visual codes in use", "higher", percent=True),
    Measure("evaluate_reconstruction", r"visual_entropy", "Entropy of the visual codes, nats", "higher"),
    Measure("evaluate_reconstruction", r"visual_perplexity", "Perplexity of the visual codes", "higher"),
    Measure("evaluate_reconstruction", r"prologue_usage", "Prologue codes in use", "higher", percent=True),
    Measure("evaluate_reconstruction", r"prologue_entropy", "Entropy of the prologue codes, nats", "higher"),
    Measure("evaluate_reconstruction", r"prologue_perplexity", "Perplexity of the prologue codes", "higher"),
    *(
        Measure("evaluate_generation", rf"{run}\.({key})", f"{label}, {words}", better, paper.get(run, ""))
        for run, words in (("cfg", "guided"), ("no_cfg", "no guidance"))
        for key, label, better, paper in (
            (r"gfd_\w+|gfid", "Generation distance", "lower", {"cfg": "gFID 4.11", "no_cfg": "gFID 10.75"}),
            (r"is(_lite2)?", "Inception-style score", "higher", {"cfg": "IS 210.3"}),
            (r"precision(_lite2)?", "Precision", "higher", {"cfg": "0.83"}),
            (r"recall(_lite2)?", "Recall", "higher", {"cfg": "0.48"}),
            (r"kid(_lite2)?", "Kernel distance (KID)", "lower", {}),
        )
    ),
    Measure("evaluate_likelihood", r"loss", "AR loss, nats per token", "lower"),
    Measure("evaluate_likelihood", r"prologue_loss", "AR loss on prologue tokens", "lower"),
    Measure("evaluate_likelihood", r"visual_loss", "AR loss on visual tokens", "lower"),
    Measure("evaluate_likelihood", r"prologue_conditional_entropy", "Conditional entropy of prologue tokens, nats", ""),
    Measure("evaluate_likelihood", r"visual_conditional_entropy", "Conditional entropy of visual tokens, nats", ""),
    Measure("evaluate_likelihood", r"prologue_gain_nats", "Prologue information gain, nats per image", "higher"),
    Measure("probe", r"prologue_\w*top1", "Linear probe on the prologue, top-1", "higher", "35.88 %", percent=True),
    Measure("probe", r"prologue_\w*top5", "Linear probe on the prologue, top-5", "higher", "60.28 %", percent=True),
    Measure("probe", r"visual_\w*top1", "Linear probe on visual tokens, top-1", "higher", "23.71 % (2D)", percent=True),
    Measure("probe", r"visual_\w*top5", "Linear probe on visual tokens, top-5", "higher", "44.17 % (2D)", percent=True),
)


@dataclass(frozen=True)
class Tile:
    """A key figure beside what would be good; `good` is None where nothing is judged: context, or not run."""

    label: str
    yardstick: str  # empty for what is never judged
    value: str = "not run"
    detail: str = ""
    sentence: str = ""  # the same in the words of the verdict
    good: bool | None = None


def write_report(params: Params, metrics: Path, figures: Path, curves: Path, output: Path) -> dict[str, int]:
    """Build the report from what the stages left behind; what is missing is marked 'not run'.

    Args:
        params: the params of this run, printed in full.
        metrics: folder of STAGE.json.
        figures: the pictures of the stages samples, attention and evaluate_reconstruction, at any depth.
        curves: folder of one folder of DVCLive TSVs per training stage.
        output: the HTML file.

    Returns:
        Bytes of the page and number of pictures and charts in it.

    Raises:
        PrologueError: a metrics file is no JSON object or a figure is no image.
    """
    known = _read_metrics(metrics)
    tiles = _tiles(params, known)
    trained = {
        "tokenizer": True,
        "attach": params.prologue.mode == "post",
        "ar": True,
        "probe": params.probe.protocol == "mae",
    }
    template = Environment(
        loader=PackageLoader("prologue"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")
    page = template.render(
        params=params,
        params_yaml=yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        headline=_headline(tiles),
        verdict=_verdict(params, known, tiles),
        tiles=tiles,
        pictures={path.stem: _picture(path) for path in sorted(figures.rglob("*.png"))},
        charts={
            STAGES[stage]: Markup(training_curves(curves / stage) or "")
            for stage, is_trained in trained.items()
            if is_trained
        },
        comparison=_comparison(known),
        costs=_costs(known),
        total_time=_total_time(known),
        protocol=_protocol(known),
    )
    with replacing(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return {"bytes": len(page.encode()), "figures": page.count("<img ") + page.count("<svg ")}


def _read_metrics(folder: Path) -> Metrics:
    """Flat metrics of every stage that has run, in the order of the DAG; stages unknown here come last."""
    present = {path.stem: path for path in sorted(folder.glob("*.json")) if path.stem != "report"}
    ordered = [stage for stage in STAGES if stage in present] + [stage for stage in present if stage not in STAGES]
    metrics = {}
    for stage in ordered:
        try:
            metrics[stage] = dict(_flat(read_json(present[stage])))
        except (ValueError, AttributeError) as error:
            raise PrologueError(f"{present[stage]} is no JSON object ({error}); run stage {stage} again") from None
    return metrics


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Items of nested dicts with dotted keys."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _picture(path: Path) -> dict[str, Any]:
    """A PNG as a data URI, with its size in px."""
    try:
        with Image.open(path) as image:
            width, height = image.size
    except OSError as error:
        raise PrologueError(f"{path} is no image ({error}); run the stage that draws it again") from None
    data = base64.b64encode(path.read_bytes()).decode()
    return {"source": f"data:image/png;base64,{data}", "width": width, "height": height}


# The front: key figures with their yardsticks, and the verdict that follows from them.


def _tiles(params: Params, metrics: Metrics) -> list[Tile]:
    tiles = [_reconstruction_tile(metrics), _generation_tile(metrics), _usage_tile(metrics), _time_tile(metrics)]
    if params.has_prologue:
        tiles[2:2] = [_gain_tile(metrics), _probe_tile(metrics)]
    return tiles


def _reconstruction_tile(metrics: Metrics) -> Tile:
    label, yardstick = "Reconstruction", "at least 20 dB (error a tenth of the range)"
    psnr = _find(metrics, "evaluate_reconstruction", r"psnr")
    if psnr is None:
        return Tile(label, yardstick)
    distance = _find(metrics, "evaluate_reconstruction", r"rfd_\w+|rfid")
    detail = f"{distance[0]} {_number(distance[1])}, lower is better" if distance else ""
    sentence = f"Held-out images come back from their visual tokens at {_number(psnr[1])} dB PSNR."
    return Tile(label, yardstick, f"{_number(psnr[1])} dB", detail, sentence, psnr[1] >= 20)


def _generation_tile(metrics: Metrics) -> Tile:
    label, yardstick = "Generation", "lower with guidance than without"
    guided = _find(metrics, "evaluate_generation", r"cfg\.(gfd_\w+|gfid)")
    plain = _find(metrics, "evaluate_generation", r"no_cfg\.(gfd_\w+|gfid)")
    if guided is None or plain is None:
        return Tile(label, yardstick)
    name = guided[0].removeprefix("cfg.")
    detail = f"{name} with guidance, {_number(plain[1])} without; lower is better"
    sentence = (
        f"Generated images lie {_number(guided[1])} from real ones by {name} with guidance and "
        f"{_number(plain[1])} without."
    )
    return Tile(label, yardstick, _number(guided[1]), detail, sentence, guided[1] < plain[1])


def _gain_tile(metrics: Metrics) -> Tile:
    label, yardstick = "Prologue information gain", "more than 1 nat"
    gain = _find(metrics, "evaluate_likelihood", r"prologue_gain_nats")
    if gain is None:
        return Tile(label, yardstick)
    detail = "per image, on its visual tokens: own prologue against another's of the same class"
    sentence = f"Knowing an image's own prologue saves {_number(gain[1])} nats on its visual tokens."
    return Tile(label, yardstick, f"{_number(gain[1])} nats", detail, sentence, gain[1] > 1)


def _probe_tile(metrics: Metrics) -> Tile:
    label, yardstick = "Linear probe of the prologue", "above the first visual tokens by two standard errors"
    prologue = _find(metrics, "probe", r"prologue_\w*top1")
    visual = _find(metrics, "probe", r"visual_\w*top1")
    if prologue is None or visual is None:
        return Tile(label, yardstick)
    detail = f"top-1 accuracy; {_percent(visual[1])} on the first visual tokens"
    images = metrics["probe"]["val_images"]
    error = math.sqrt(sum(share * (1 - share) for share in (prologue[1], visual[1])) / images)
    return Tile(label, yardstick, _percent(prologue[1]), detail, good=prologue[1] - visual[1] > 2 * error)


def _usage_tile(metrics: Metrics) -> Tile:
    label, yardstick = "Codebook usage", "more than half of the visual codes"
    visual = _find(metrics, "evaluate_reconstruction", r"visual_usage")
    prologue = _find(metrics, "evaluate_reconstruction", r"prologue_usage")
    if visual is None:
        return Tile(label, yardstick)
    detail = "of the visual codes" + (f", {_percent(prologue[1])} of the prologue codes" if prologue else "")
    return Tile(label, yardstick, _percent(visual[1]), detail, good=visual[1] > 0.5)


def _time_tile(metrics: Metrics) -> Tile:
    memory = max((values.get("peak_memory_mb", 0) for values in metrics.values()), default=0)
    detail = f"over {len(metrics)} stages; at most {memory:,} MB of memory" if metrics else ""
    return Tile("Wall time", "", _total_time(metrics), detail)


def _find(metrics: Metrics, stage: str, pattern: str) -> tuple[str, float] | None:
    """The first number of a stage whose whole key matches."""
    for key, value in metrics.get(stage, {}).items():
        if re.fullmatch(pattern, key) and isinstance(value, int | float):
            return key, value
    return None


def _headline(tiles: list[Tile]) -> str:
    judged = [tile for tile in tiles if tile.good is not None]
    met = sum(tile.good is True for tile in judged)
    missing = sum(bool(tile.yardstick) for tile in tiles) - len(judged)
    if not judged:
        return "Nothing to judge yet: the evaluation stages were not run."
    if missing:
        return f"Incomplete: {met} of {len(judged)} checks hold, {missing} not run."
    if met == len(judged):
        return f"It worked: all {met} checks hold."
    return f"It worked in part: {met} of {len(judged)} checks hold." if met else "It did not work: no check holds."


def _verdict(params: Params, metrics: Metrics, tiles: list[Tile]) -> str:
    """One paragraph in plain words: what was trained on what, what came out, what falls short, how that is known."""
    sentences = [tile.sentence for tile in tiles if tile.sentence]
    sentences += [f"Not met: {tile.label.lower()}, {tile.value}." for tile in tiles if tile.good is False]
    shards = metrics.get("shards", {})
    if {"train.images", "val.images", "classes"} <= shards.keys():
        sentences.insert(
            0,
            f"A tokenizer and an AR model learned from {shards['train.images']:,} images of {shards['classes']:,} "
            f"classes at {params.data.image_size} px ({params.data.source.name}).",
        )
        sentences.append(
            f"How this is known: by {shards['val.images']:,} validation images that no training saw, and by eye below."
        )
    return " ".join(sentences)


# The tables: every key of every metrics file stands in exactly one of them.


def _comparison(metrics: Metrics) -> dict[str, list[dict[str, str]]]:
    """Rows of known metrics by stage; a measure that a stage which has run did not record is left out."""
    groups: dict[str, list[dict[str, str]]] = {}
    for measure in MEASURES:
        row = {"label": measure.label, "better": measure.better, "paper": measure.paper}
        rows = groups.setdefault(STAGES[measure.stage], [])
        if measure.stage not in metrics:
            rows.append(row | {"key": "", "measured": "not run"})
        for key, value in metrics.get(measure.stage, {}).items():
            if re.fullmatch(measure.key, key):
                share = measure.percent and isinstance(value, int | float)
                rows.append(row | {"key": key, "measured": _percent(value) if share else _text(value)})
    return groups


def _costs(metrics: Metrics) -> list[dict[str, Any]]:
    rows = []
    for stage in [*STAGES, *(stage for stage in metrics if stage not in STAGES)]:
        values = metrics.get(stage, {})
        parameters, rates, state = [], [], []
        for key, value in values.items():
            if value is None:  # a stage resumed after its last step has no speed
                continue
            if match := re.fullmatch(r"parameters\.?(.*)", key):
                parameters.append(f"{match[1]} {value:,}".strip())
            if match := re.fullmatch(r"(\w+)_per_second\.?(.*)", key):
                rates.append(f"{match[2]} {_number(value)} {match[1]}/s".strip())
            if match := re.fullmatch(r"state_mb\.(.*)", key):
                state.append(f"{match[1]} {_number(value)} MB")
        rows.append(
            {
                "stage": stage,
                "label": STAGES.get(stage, stage),
                "time": _duration(values["seconds"]) if "seconds" in values else "" if values else "not run",
                "memory": f"{values['peak_memory_mb']:,} MB" if "peak_memory_mb" in values else "",
                "state": state,
                "steps": f"{values['steps']:,}" if "steps" in values else "",
                "parameters": parameters,
                "rates": rates,
            }
        )
    return rows


def _protocol(metrics: Metrics) -> dict[str, list[tuple[str, str]]]:
    """What the stages recorded beside metrics and costs: seeds, counts, settings, hashes, as written."""
    protocol = {}
    for stage, values in metrics.items():
        shown_above = [measure.key for measure in MEASURES if measure.stage == stage]
        rest = [
            (key, _text(value, exact=True))
            for key, value in values.items()
            if not COST.fullmatch(key) and not any(re.fullmatch(pattern, key) for pattern in shown_above)
        ]
        if rest:
            protocol[stage] = rest
    return protocol


def _total_time(metrics: Metrics) -> str:
    seconds = sum(values.get("seconds", 0) for values in metrics.values())
    return _duration(seconds) if metrics else "not run"


def _text(value: Any, exact: bool = False) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item, exact) for item in value)
    return _number(value) if isinstance(value, int | float) and not exact else str(value)


def _number(value: float) -> str:
    """Four significant digits; counts in full."""
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
