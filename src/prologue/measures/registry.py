"""Every metric that is known: where it is recorded, what it is called, which way is better, the paper's name and value.

Reports, studies and checks ask for a metric by its name here.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

Metrics = dict[str, dict[str, Any]]  # what was recorded: stage -> values by dotted key; without stages that did not run

STAGES = {  # in the order of the DAG, with what each is called
    "shards": "Images packed into shards",
    "reference": "Statistics of the real images",
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
COST = re.compile(
    r"(earlier_)?seconds|peak_memory_mb|steps|parameters(\..+)?|state_mb\..+|spent_seconds\..+|.*_per_second(\..+)?"
)


@dataclass(frozen=True)
class Metric:
    """What is known of a metric.

    Attributes:
        name: by which it is asked for.
        stage: that records it.
        key: regular expression of the dotted key under which it is recorded; the extractor's name is part of the key.
        label: what it is called.
        better: which way; empty where neither is.
        paper: what the paper calls it.
        paper_value: the paper's, of Prologue B-B unless it says otherwise.
        percent: whether it is a share.
    """

    name: str
    stage: str
    key: str
    label: str
    better: Literal["lower", "higher", ""]
    paper: str = ""
    paper_value: str = ""
    percent: bool = False


def _metrics(stage: str, *rows: tuple[Any, ...]) -> tuple[Metric, ...]:
    """The metrics of a stage; each row has what `Metric` has, but for the stage."""
    return tuple(Metric(row[0], stage, *row[1:]) for row in rows)


def _codebook(name: str) -> list[tuple[Any, ...]]:
    return [
        (f"{name}_usage", f"{name}_usage", f"{name.capitalize()} codes in use", "higher", "", "", True),
        (f"{name}_entropy", f"{name}_entropy", f"Entropy of the {name} codes, nats", "higher"),
        (f"{name}_perplexity", f"{name}_perplexity", f"Perplexity of the {name} codes", "higher"),
        (
            f"{name}_id_consistency",
            f"{name}_id_consistency",
            f"{name.capitalize()} ids that encoding a reconstruction returns",
            "higher",
            "",
            "",
            True,
        ),
    ]


METRICS = (
    *_metrics(
        "evaluate_reconstruction",
        ("rfd", r"rfd_\w+|rfid", "Reconstruction distance", "lower", "rFID", "2.24"),
        ("psnr", r"psnr", "PSNR, dB", "higher", "PSNR", "20.64"),
        ("ssim", r"ssim", "SSIM", "higher"),
        ("l1", r"l1", "Mean absolute error", "lower"),
        ("perceptual", r"lpips|perceptual_\w+", "Perceptual distance", "lower"),
        *_codebook("visual"),
        *_codebook("prologue"),
    ),
    *_metrics(
        "evaluate_generation",
        ("gfd", r"cfg\.(gfd_\w+|gfid)", "Generation distance, guided", "lower", "gFID", "4.11"),
        ("gap", r"cfg\.to_reconstructions\.(gfd_\w+|gfid)", "Distance to reconstructions, guided", "lower"),
        ("gap_recall", r"cfg\.to_reconstructions\.recall(_lite2)?", "Recall of reconstructions, guided", "higher"),
        (
            "gap_precision",
            r"cfg\.to_reconstructions\.precision(_lite2)?",
            "Precision of reconstructions, guided",
            "higher",
        ),
        ("gap_kid", r"cfg\.to_reconstructions\.kid(_lite2)?", "Kernel distance to reconstructions, guided", "lower"),
        ("is", r"cfg\.is(_lite2)?", "Inception-style score, guided", "higher", "IS", "210.3"),
        ("precision", r"cfg\.precision(_lite2)?", "Precision, guided", "higher", "", "0.83"),
        ("recall", r"cfg\.recall(_lite2)?", "Recall, guided", "higher", "", "0.48"),
        ("kid", r"cfg\.kid(_lite2)?", "Kernel distance (KID), guided", "lower"),
        ("gfd_plain", r"no_cfg\.(gfd_\w+|gfid)", "Generation distance, no guidance", "lower", "gFID w/o CFG", "10.75"),
        (
            "gap_plain",
            r"no_cfg\.to_reconstructions\.(gfd_\w+|gfid)",
            "Distance to reconstructions, no guidance",
            "lower",
        ),
        (
            "gap_recall_plain",
            r"no_cfg\.to_reconstructions\.recall(_lite2)?",
            "Recall of reconstructions, no guidance",
            "higher",
        ),
        (
            "gap_precision_plain",
            r"no_cfg\.to_reconstructions\.precision(_lite2)?",
            "Precision of reconstructions, no guidance",
            "higher",
        ),
        (
            "gap_kid_plain",
            r"no_cfg\.to_reconstructions\.kid(_lite2)?",
            "Kernel distance to reconstructions, no guidance",
            "lower",
        ),
        ("floor", r"floor\.(gfd_\w+|gfid)", "Distance that other reconstructions would have", ""),
        ("independent_gfd", r"independent\.(gfd_\w+|gfid)", "Generation distance of ids drawn independently", ""),
        (
            "independent",
            r"independent\.to_reconstructions\.(gfd_\w+|gfid)",
            "Distance of ids drawn independently to reconstructions",
            "",
        ),
        ("swapped_own", r"swapped\.own_class", "Swapped prologues: draws that look like their class", "", "", "", True),
        (
            "swapped_other",
            r"swapped\.prologue_class",
            "Swapped prologues: draws that look like the prologue's class",
            "",
            "",
            "",
            True,
        ),
        ("class_kept", r"swapped\.samples", "Guided samples that look like their class", "higher", "", "", True),
        ("is_plain", r"no_cfg\.is(_lite2)?", "Inception-style score, no guidance", "higher"),
        ("precision_plain", r"no_cfg\.precision(_lite2)?", "Precision, no guidance", "higher"),
        ("recall_plain", r"no_cfg\.recall(_lite2)?", "Recall, no guidance", "higher"),
        ("kid_plain", r"no_cfg\.kid(_lite2)?", "Kernel distance (KID), no guidance", "lower"),
    ),
    *_metrics(
        "evaluate_likelihood",
        ("ar_loss", r"loss", "AR loss, nats per token", "lower", "AR loss"),
        ("nats", r"nats\.total", "Nats per image", "lower"),
        ("prologue_nats", r"nats\.prologue", "Nats per image, prologue", "lower"),
        ("visual_nats", r"nats\.visual", "Nats per image, visual tokens", "lower"),
        ("prologue_loss", r"prologue_loss", "AR loss on prologue tokens", "lower"),
        ("visual_loss", r"visual_loss", "AR loss on visual tokens", "lower"),
        ("prologue_unsure", r"prologue_conditional_entropy", "Conditional entropy of prologue tokens, nats", ""),
        ("visual_unsure", r"visual_conditional_entropy", "Conditional entropy of visual tokens, nats", ""),
        ("prologue_gain", r"prologue_gain_nats", "Nats more with another image's prologue", "higher"),
    ),
    *_metrics(
        "probe",
        ("prologue_top1", r"prologue_\w*top1", "Linear probe, prologue, top-1", "higher", "Top-1", "35.88 %", True),
        ("prologue_top5", r"prologue_\w*top5", "Linear probe, prologue, top-5", "higher", "Top-5", "60.28 %", True),
        (
            "visual_top1",
            r"visual_\w*top1",
            "Linear probe, visual tokens, top-1",
            "higher",
            "Top-1",
            "23.71 % (2D)",
            True,
        ),
        (
            "visual_top5",
            r"visual_\w*top5",
            "Linear probe, visual tokens, top-5",
            "higher",
            "Top-5",
            "44.17 % (2D)",
            True,
        ),
    ),
)
AR_PARAMETERS = Metric(
    "ar_parameters", "ar", r"parameters\.ar", "AR parameters", ""
)  # a cost, by which studies compare
NAMED = {metric.name: metric for metric in (*METRICS, AR_PARAMETERS)}
MOST = (  # the names of those that matter most, in the order in which they are told
    "psnr",
    "rfd",
    "gfd",
    "gfd_plain",
    "gap",
    "floor",
    "nats",
    "prologue_gain",
    "prologue_top1",
    "prologue_usage",
)


def find(metrics: Metrics, name: str) -> tuple[str, float] | None:
    """The key and value of a metric in what was recorded; None where it was not measured."""
    metric = NAMED[name]
    for key, value in metrics.get(metric.stage, {}).items():
        if re.fullmatch(metric.key, key) and isinstance(value, int | float):
            return key, value
    return None


def find_interval(metrics: Metrics, name: str) -> tuple[float, float] | None:
    """The 95 % interval of a metric in what was recorded, over images; None where none was measured."""
    hit = find(metrics, name)
    return None if hit is None else interval_of(metrics[NAMED[name].stage], hit[0])


def interval_of(values: dict[str, Any], key: str) -> tuple[float, float] | None:
    """The interval recorded beside a key of a stage: RUN.interval.KEY.low and .high."""
    *parents, last = key.split(".")
    low, high = (values.get(".".join([*parents, "interval", last, end])) for end in ("low", "high"))
    return None if low is None or high is None else (low, high)


def is_interval(key: str) -> bool:
    """Whether a recorded key is an end of an interval, which is shown with its metric."""
    return re.fullmatch(r"(.+\.)?interval\..+\.(low|high)", key) is not None


def metric_of(stage: str, key: str) -> Metric | None:
    """What is known of a recorded key; None where nothing is."""
    matching = (metric for metric in METRICS if metric.stage == stage and re.fullmatch(metric.key, key))
    return next(matching, None)


def is_cost(key: str) -> bool:
    """Whether a recorded key is a cost: time, memory, size or speed."""
    return COST.fullmatch(key) is not None


def metric_name(measure: str, extractor: str) -> str:
    """A metric's name, which says what computed it: `fid` is Inception's alone, all else carries its extractor's name.

    measure: fd, rfd (of reconstructions), gfd (of generated images), is, kid, precision, recall ...
    """
    if extractor == "inception":
        return measure.replace("fd", "fid")
    return f"{measure}_{extractor}"
