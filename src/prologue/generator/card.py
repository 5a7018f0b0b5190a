"""The model card of an exported folder, filled from what the run recorded; nothing in it is made up."""

import shlex
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined

from prologue.core.files import read_json, sha256
from prologue.core.launch import own_cores
from prologue.core.machine import cpu_name
from prologue.core.params_file import load_params
from prologue.core.systems import trains_both
from prologue.generator.folders import METRICS
from prologue.generator.generator import Generator
from prologue.measures.recorded import read_metrics
from prologue.measures.registry import MOST, NAMED, Metrics, find, find_interval
from prologue.models.saved import parameter_count

MANIFEST, SOURCE = Path("data/shards/manifest.json"), Path("data/source.json")
TEMPLATE = files("prologue.generator") / "card.md"
WATTS_PER_CORE, WATTS_PER_GPU = 15, 500  # assumed, of a process that is busy; for an estimate of energy
LICENCES = {  # of images that come with the project, by what the stage `source` calls them
    "88487d33844ea52aceb98660652a679291b8e877d29618867cf9d7b573a303e1": "Fashion-MNIST, MIT licence, Zalando SE",
}
DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def data_licence(project: Path | None) -> str | None:
    """The licence of a project's images, where it is known: of those that come with Prologue, by their content."""
    if project is None or not (project / SOURCE).is_file():
        return None
    return LICENCES.get(read_json(project / SOURCE)["sha256"])


def is_mit(project: Path | None) -> bool:
    """Whether weights are under the licence of this project: none is imported, and their images came with it."""
    if project is None or data_licence(project) is None:
        return False
    measured = [name for values in read_metrics(project / METRICS).values() for name in values]
    imported = any(name.startswith("imported.") for name in measured)
    return trains_both(load_params(project / "params.yaml")) and not imported


def record_of(generator: Generator) -> Path | None:
    """The project whose last run drew its samples from these very weights; None where nothing tells of them."""
    project = generator.project
    if project is None or not (project / MANIFEST).is_file():
        return None
    metrics = read_metrics(project / METRICS)
    known = metrics.get("samples", {}).get("weights_sha256") == generator.weights_sha256
    return project if known and "shards" in metrics else None


def model_card(
    generator: Generator, project: Path | None, dtype: torch.dtype, name: str, figures: list[str], mit: bool
) -> str:
    """The README.md of a generator exported as `name`: what it is, how it came about, what it measures, its limits.

    `project` is its `record_of`; without one the card says what the model itself tells. `figures` are the names of
    pictures in its figures/, `mit` is whether it is under this project's licence.
    """
    run = _recorded(project) if project else None
    config = generator.tokenizer.config
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text()).render(
        name=name,
        package="prologue",
        version=version("prologue"),
        licence_id="mit" if mit else "other",
        licence_of_weights="the MIT licence" if mit else "the terms of whoever publishes them, which are not recorded",
        image_size=config.image_size,
        classes=generator.classes,
        class_in_shell=shlex.quote(generator.classes[0]),
        prologue_tokens=generator.ar.vocabulary.prologue_tokens,
        prologue_codebook=generator.ar.vocabulary.prologue_codebook,
        visual_tokens=generator.ar.vocabulary.visual_tokens,
        visual_codebook=generator.ar.vocabulary.visual_codebook,
        tokenizer_parameters=parameter_count(generator.tokenizer),
        ar_parameters=parameter_count(generator.ar),
        cfg=generator.cfg,
        dtype=DTYPES[dtype],
        run=run,
        figures=figures,
    )


def _recorded(project: Path) -> dict[str, Any]:
    """What the metrics and params of a project's last run tell of it."""
    params, metrics = load_params(project / "params.yaml"), read_metrics(project / METRICS)
    shards, tokenizer, ar = (metrics.get(stage, {}) for stage in ("shards", "tokenizer", "ar"))
    source = params.data.source.name
    hours, watts = sum(values.get("seconds", 0) for values in metrics.values()) / 3600, _watts(metrics)
    steps = {"the tokenizer": tokenizer.get("steps"), "the AR model": ar.get("steps")}
    origins = {"the tokenizer": params.tokenizer.source, "the AR model": params.ar.source}
    return {
        "source": source,
        "images": f"{shards['train.images']:,}",
        "held_out": f"{shards['val.images']:,}",
        "data_licence": data_licence(project),
        "data_sha256": sha256(project / MANIFEST),
        "trained": " and ".join(f"{what} for {count:,} steps" for what, count in steps.items() if count),
        "imported": " and ".join(f"{what} ({kind})" for what, kind in origins.items() if kind != "train"),
        "seed": params.seed,
        "hardware": ", ".join(sorted({str(values.get("gpu", values.get("cpu"))) for values in metrics.values()})),
        "hours": f"{hours:.2f}",
        "watts": watts,
        "watt_hours": None if watts is None else f"{hours * watts:.0f}",
        "extractor": params.evaluation.extractor,
        "samples": f"{metrics['samples']['images']:,}" if "samples" in metrics else None,
        "numbers": [row for name in MOST if (row := _row(metrics, name))],
    }


def _watts(metrics: Metrics) -> int | None:
    """What the processes of a run are assumed to draw; None of CPUs other than this one, whose cores are not known."""
    processes = max(int(values.get("processes", 1)) for values in metrics.values())
    if any("gpu" in values for values in metrics.values()):
        return processes * WATTS_PER_GPU
    alike = {values["cpu"] for values in metrics.values() if "cpu" in values} == {cpu_name()}
    return processes * WATTS_PER_CORE * own_cores() if alike else None


def _row(metrics: Metrics, name: str) -> dict[str, str] | None:
    hit, within = find(metrics, name), find_interval(metrics, name)
    if hit is None:
        return None
    value = f"{hit[1]:.4g}" + (f" [{within[0]:.4g}, {within[1]:.4g}]" if within else "")
    return {"label": NAMED[name].label, "value": value, "better": NAMED[name].better}
