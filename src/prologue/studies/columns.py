"""What the tables of studies compare: where each number is found, and what the paper calls its own."""

from dataclasses import dataclass

from prologue.report.metrics import Metrics, find
from prologue.report.study_page import Column


@dataclass(frozen=True)
class Measurement:
    """A number of an experiment: its stage, keys as regular expressions (the first that is there counts), its names.

    `label` is completed by the key's own name, which says which extractor or protocol measured it.
    """

    stage: str
    keys: tuple[str, ...]
    label: str
    better: str
    paper: str = ""
    named: bool = False

    def find(self, metrics: Metrics) -> tuple[str, float] | None:
        """The key and value among the metrics of an experiment; None where it was not measured."""
        hits = (find(metrics, self.stage, pattern) for pattern in self.keys)
        return next((hit for hit in hits if hit is not None), None)


PROLOGUE_OR_VISUAL = (r"prologue_\w+_top{k}", r"visual_\w+_top{k}")  # the first tokens of each system

MEASUREMENTS = {
    "rfd": Measurement("evaluate_reconstruction", (r"rfid|rfd_\w+",), "reconstruction", "lower", "rFID", named=True),
    "psnr": Measurement("evaluate_reconstruction", ("psnr",), "PSNR, dB", "higher", "PSNR"),
    "ar_loss": Measurement("evaluate_likelihood", ("loss",), "AR loss, nats per token", "lower", "AR loss"),
    "gfd": Measurement("evaluate_generation", (r"cfg\.(gfid|gfd_\w+)",), "guided", "lower", "gFID", named=True),
    "gfd_plain": Measurement(
        "evaluate_generation", (r"no_cfg\.(gfid|gfd_\w+)",), "without guidance", "lower", "gFID w/o CFG", named=True
    ),
    "is": Measurement("evaluate_generation", (r"cfg\.is(_lite2)?",), "guided", "higher", "IS", named=True),
    "top1": Measurement(
        "probe", tuple(key.format(k=1) for key in PROLOGUE_OR_VISUAL), "linear probe, top-1", "higher", "Top-1"
    ),
    "top5": Measurement(
        "probe", tuple(key.format(k=5) for key in PROLOGUE_OR_VISUAL), "linear probe, top-5", "higher", "Top-5"
    ),
    "ar_parameters": Measurement("ar", (r"parameters\.ar",), "AR parameters", ""),
    "sweep": Measurement("sweep", (r"points\..*",), "sweep", ""),
}


def measure(keys: list[str], metrics: Metrics) -> dict[str, float | None]:
    """The values of some measurements in the metrics of an experiment."""
    found = {key: MEASUREMENTS[key].find(metrics) for key in keys}
    return {key: None if hit is None else hit[1] for key, hit in found.items()}


def column(key: str, experiments: list[Metrics]) -> Column:
    """The table's column of a measurement; `named` ones take their name from what the experiments recorded."""
    measurement = MEASUREMENTS[key]
    hits = (measurement.find(metrics) for metrics in experiments)
    names = [hit[0].rsplit(".", 1)[-1] for hit in hits if hit is not None]
    label = f"{names[0]}, {measurement.label}" if measurement.named and names else measurement.label
    return Column.model_validate({"key": key, "label": label, "better": measurement.better, "paper": measurement.paper})
