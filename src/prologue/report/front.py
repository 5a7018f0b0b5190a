"""The report: one self-contained HTML page that says whether it worked, how that is known, and what it cost."""

import re
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from prologue.core.params import Params, SamplingParams
from prologue.core.systems import has_prologue, trains_stage2
from prologue.figures.curves import training_curves
from prologue.measures.recorded import read_metrics
from prologue.measures.registry import (
    METRICS,
    STAGES,
    Metrics,
    interval_of,
    is_cost,
    is_interval,
    metric_name,
    metric_of,
)
from prologue.report.pages import duration, ends, number, percent, read_picture, text, write_page
from prologue.report.verdict import evidence, headline, key_figures, total_time, verdict
from prologue.report.watermark import read_watermark
from prologue.report.words import RUN_TITLES, attention_in_words, swapped_in_words
from prologue.sampling.adopted import Adopted, with_adopted


def write_report(
    params: Params, metrics: Path, figures: Path, curves: Path, watermark: Path, output: Path
) -> dict[str, int]:
    """Build the report from what the stages left behind; what is missing is marked 'not run'.

    Args:
        params: the params of this run, printed in full.
        metrics: folder of STAGE.json.
        figures: the pictures that stages drew, at any depth.
        curves: folder of one folder of DVCLive TSVs per training stage.
        watermark: folder of `prologue watermark`, shown where it measured the model of this run.
        output: the HTML file.

    Returns:
        Bytes of the page and number of pictures and charts in it.

    Raises:
        PrologueError: a metrics file is no JSON object or a figure is no image.
    """
    known = read_metrics(metrics)
    tiles = key_figures(params, known)
    trained = {
        "tokenizer": params.tokenizer.source == "train",
        "attach": params.prologue.mode == "post",
        "ar": trains_stage2(params),
        "probe": params.probe.protocol == "mae",
    }
    page = write_page(
        "report.html",
        output,
        root="",
        params=params,
        sampling=_sampling(params, known),
        with_prologue=has_prologue(params),
        params_yaml=yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        headline=headline(tiles),
        verdict=verdict(params, known, tiles),
        evidence=evidence(params, known),
        tiles=tiles,
        attention_in_words=attention_in_words(known),
        swapped_in_words=swapped_in_words(known),
        pictures={path.stem: read_picture(path) for path in sorted(figures.rglob("*.png"))},
        charts={
            STAGES[stage]: Markup(training_curves(curves / stage, stage) or "")
            for stage, is_trained in trained.items()
            if is_trained
        },
        runs=RUN_TITLES.values(),
        temperatures=_temperatures(params, known),
        watermark=read_watermark(watermark, known),
        comparison=_comparison(known),
        costs=_costs(known),
        total_time=total_time(known),
        protocol=_protocol(known),
    )
    return {"bytes": len(page.encode()), "figures": page.count("<img ") + page.count("<svg ")}


def _sampling(params: Params, metrics: Metrics) -> SamplingParams:
    """The settings that the samples were drawn at."""
    adopted: Adopted = {}
    for key, value in metrics.get("samples", {}).items():
        if match := re.fullmatch(r"adopted\.(\w+)\.(.+)", key):
            adopted.setdefault(match[1], {})[match[2]] = value
    return with_adopted(params.sampling, adopted)


def _temperatures(params: Params, metrics: Metrics) -> dict[str, dict[str, str]]:
    """By temperature of the sweep, the distance of each run's samples."""
    distance = re.escape(metric_name("gfd", params.evaluation.extractor))
    found: dict[str, dict[str, str]] = {}
    for key, value in metrics.get("sweep", {}).items():
        if match := re.fullmatch(rf"temperatures\.(\w+)\.(.+)\.{distance}", key):
            found.setdefault(match[2], {})[RUN_TITLES[match[1]]] = number(value)
    return found


# The tables: every key of every metrics file stands in exactly one of them.


def _comparison(metrics: Metrics) -> dict[str, list[dict[str, str]]]:
    """Rows of known metrics by stage; one that a stage which has run did not record is left out."""
    groups: dict[str, list[dict[str, str]]] = {}
    for metric in METRICS:
        row = {
            "label": metric.label,
            "better": metric.better,
            "paper": f"{metric.paper} {metric.paper_value}".strip() if metric.paper_value else "",
        }
        rows = groups.setdefault(STAGES[metric.stage], [])
        if metric.stage not in metrics:
            rows.append(row | {"key": "", "measured": "not run"})
        for key, value in metrics.get(metric.stage, {}).items():
            if re.fullmatch(metric.key, key):
                share = metric.percent and isinstance(value, int | float)
                within = interval_of(metrics[metric.stage], key)
                shown = percent(value) if share else text(value)
                rows.append(row | {"key": key, "measured": shown + (f" {ends(within)}" if within else "")})
    return groups


def _costs(metrics: Metrics) -> list[dict[str, Any]]:
    rows = []
    for stage in [*STAGES, *(stage for stage in metrics if stage not in STAGES)]:
        values = metrics.get(stage, {})
        parameters, rates, state, spent = [], [], [], []
        for key, value in values.items():
            if value is None:  # a stage resumed after its last step has no speed
                continue
            if match := re.fullmatch(r"parameters\.?(.*)", key):
                parameters.append(f"{match[1]} {value:,}".strip())
            if match := re.fullmatch(r"(\w+)_per_second\.?(.*)", key):
                rates.append(f"{match[2]} {number(value)} {match[1]}/s".strip())
            if match := re.fullmatch(r"state_mb\.(.*)", key):
                state.append(f"{match[1]} {number(value)} MB")
            if match := re.fullmatch(r"spent_seconds\.(.*)", key):
                spent.append(f"{match[1]} {duration(value)}")
            if key == "earlier_seconds":
                spent.append(f"earlier sessions {duration(value)}")
        rows.append(
            {
                "stage": stage,
                "label": STAGES.get(stage, stage),
                "time": duration(values["seconds"]) if "seconds" in values else "" if values else "not run",
                "seconds": values.get("seconds", ""),
                "megabytes": values.get("peak_memory_mb", ""),
                "memory": f"{values['peak_memory_mb']:,} MB" if "peak_memory_mb" in values else "",
                "state": state,
                "spent": spent,
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
        rest = [
            (key, text(value, exact=True))
            for key, value in values.items()
            if not (is_cost(key) or is_interval(key)) and metric_of(stage, key) is None
        ]
        if rest:
            protocol[stage] = rest
    return protocol
