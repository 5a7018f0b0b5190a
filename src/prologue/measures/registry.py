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


METRICS = (
    Metric("rfd", "evaluate_reconstruction", r"rfd_\w+|rfid", "Reconstruction distance", "lower", "rFID", "2.24"),
    Metric("psnr", "evaluate_reconstruction", r"psnr", "PSNR, dB", "higher", "PSNR", "20.64"),
    Metric("ssim", "evaluate_reconstruction", r"ssim", "SSIM", "higher"),
    Metric("perceptual", "evaluate_reconstruction", r"lpips|perceptual_\w+", "Perceptual distance", "lower"),
    *(
        metric
        for codebook in ("visual", "prologue")
        for metric in (
            Metric(
                f"{codebook}_usage",
                "evaluate_reconstruction",
                f"{codebook}_usage",
                f"{codebook.capitalize()} codes in use",
                "higher",
                percent=True,
            ),
            Metric(
                f"{codebook}_entropy",
                "evaluate_reconstruction",
                f"{codebook}_entropy",
                f"Entropy of the {codebook} codes, nats",
                "higher",
            ),
            Metric(
                f"{codebook}_perplexity",
                "evaluate_reconstruction",
                f"{codebook}_perplexity",
                f"Perplexity of the {codebook} codes",
                "higher",
            ),
        )
    ),
    Metric(
        "gfd", "evaluate_generation", r"cfg\.(gfd_\w+|gfid)", "Generation distance, guided", "lower", "gFID", "4.11"
    ),
    Metric("is", "evaluate_generation", r"cfg\.is(_lite2)?", "Inception-style score, guided", "higher", "IS", "210.3"),
    Metric("precision", "evaluate_generation", r"cfg\.precision(_lite2)?", "Precision, guided", "higher", "", "0.83"),
    Metric("recall", "evaluate_generation", r"cfg\.recall(_lite2)?", "Recall, guided", "higher", "", "0.48"),
    Metric("kid", "evaluate_generation", r"cfg\.kid(_lite2)?", "Kernel distance (KID), guided", "lower"),
    Metric(
        "gfd_plain",
        "evaluate_generation",
        r"no_cfg\.(gfd_\w+|gfid)",
        "Generation distance, no guidance",
        "lower",
        "gFID w/o CFG",
        "10.75",
    ),
    Metric("is_plain", "evaluate_generation", r"no_cfg\.is(_lite2)?", "Inception-style score, no guidance", "higher"),
    Metric("precision_plain", "evaluate_generation", r"no_cfg\.precision(_lite2)?", "Precision, no guidance", "higher"),
    Metric("recall_plain", "evaluate_generation", r"no_cfg\.recall(_lite2)?", "Recall, no guidance", "higher"),
    Metric("kid_plain", "evaluate_generation", r"no_cfg\.kid(_lite2)?", "Kernel distance (KID), no guidance", "lower"),
    Metric("ar_loss", "evaluate_likelihood", r"loss", "AR loss, nats per token", "lower", "AR loss"),
    Metric("prologue_loss", "evaluate_likelihood", r"prologue_loss", "AR loss on prologue tokens", "lower"),
    Metric("visual_loss", "evaluate_likelihood", r"visual_loss", "AR loss on visual tokens", "lower"),
    *(
        Metric(
            f"{segment}_conditional_entropy",
            "evaluate_likelihood",
            f"{segment}_conditional_entropy",
            f"Conditional entropy of {segment} tokens, nats",
            "",
        )
        for segment in ("prologue", "visual")
    ),
    Metric(
        "prologue_gain",
        "evaluate_likelihood",
        r"prologue_gain_nats",
        "Prologue information gain, nats per image",
        "higher",
    ),
    *(
        Metric(
            f"{tokens}_top{k}",
            "probe",
            rf"{tokens}_\w*top{k}",
            f"Linear probe on {words}, top-{k}",
            "higher",
            f"Top-{k}",
            value,
            percent=True,
        )
        for tokens, words, k, value in (
            ("prologue", "the prologue", 1, "35.88 %"),
            ("prologue", "the prologue", 5, "60.28 %"),
            ("visual", "visual tokens", 1, "23.71 % (2D)"),
            ("visual", "visual tokens", 5, "44.17 % (2D)"),
        )
    ),
)
AR_PARAMETERS = Metric(
    "ar_parameters", "ar", r"parameters\.ar", "AR parameters", ""
)  # a cost, by which studies compare
NAMED = {metric.name: metric for metric in (*METRICS, AR_PARAMETERS)}


def find(metrics: Metrics, name: str) -> tuple[str, float] | None:
    """The key and value of a metric in what was recorded; None where it was not measured."""
    metric = NAMED[name]
    for key, value in metrics.get(metric.stage, {}).items():
        if re.fullmatch(metric.key, key) and isinstance(value, int | float):
            return key, value
    return None


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
