"""Metrics as the stages wrote them, and what is known about each: its name, the better direction, the paper's value."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prologue.errors import PrologueError

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


def read_metrics(folder: Path) -> Metrics:
    """Metrics of every stage that left a file STAGE.json in `folder`. Raises PrologueError as `parse_metrics`."""
    return parse_metrics({path.stem: path.read_text() for path in sorted(folder.glob("*.json"))})


def parse_metrics(files: dict[str, str]) -> Metrics:
    """Flat metrics of stages, in the order of the DAG; stages unknown here come last.

    Args:
        files: stage -> JSON. The report's own is left out.

    Raises:
        PrologueError: a file is no JSON object.
    """
    present = {stage: content for stage, content in files.items() if stage != "report"}
    ordered = [stage for stage in STAGES if stage in present] + [stage for stage in present if stage not in STAGES]
    metrics = {}
    for stage in ordered:
        try:
            metrics[stage] = flat(json.loads(present[stage]))
        except (ValueError, AttributeError) as error:
            raise PrologueError(f"{stage}.json is no JSON object ({error}); run stage {stage} again") from None
    return metrics


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one with dotted keys."""
    items: dict[str, Any] = {}
    for key, value in values.items():
        items |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return items


def measure_of(stage: str, key: str) -> Measure | None:
    """What is known about a metric; None where nothing is."""
    matching = (measure for measure in MEASURES if measure.stage == stage and re.fullmatch(measure.key, key))
    return next(matching, None)


def is_cost(key: str) -> bool:
    """Whether a metric is a cost: time, memory, size or speed."""
    return COST.fullmatch(key) is not None


def find(metrics: Metrics, stage: str, pattern: str) -> tuple[str, float] | None:
    """The first number of a stage whose whole key matches."""
    for key, value in metrics.get(stage, {}).items():
        if re.fullmatch(pattern, key) and isinstance(value, int | float):
            return key, value
    return None
