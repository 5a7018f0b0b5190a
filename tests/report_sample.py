"""What stages leave for the report, made up, and the page that it becomes."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from prologue.core.params import Params
from prologue.figures.grids import image_grid
from prologue.report.front import write_report

METRICS: dict[str, dict[str, Any]] = {
    "shards": {"train": {"images": 20000}, "val": {"images": 5000}, "classes": 10, "seconds": 6.0},
    "tokenizer": {"parameters": {"encoder": 1795008}, "steps": 500, "seconds": 400.0, "peak_memory_mb": 2100},
    "evaluate_likelihood": {
        "visual_loss": 4.0219,
        "prologue_gain_nats": 17.3421,
        "nats": {"total": 265.25, "prologue": 7.75, "eos": 0.0, "visual": 257.5},
    },
    "attention": {"attention_to_prologue": {"mean": 0.0625, "uniform": 0.125}},
    "ar": {
        "images_per_second": None,
        "checkpoint_sha256": "ab12" * 16,
    },
    "samples": {
        "images_per_second": {"cfg": 22.25, "no_cfg": 41.75},
        "seconds": 194.0,
        "adopted": {"cfg": {"visual.guidance": 1.75}, "no_cfg": {}},
    },
    "evaluate_reconstruction": {"rfd_lite2": 12.3456, "psnr": 22.1834, "visual_usage": 0.625},
    "evaluate_generation": {
        "cfg": {
            "gfd_lite2": 38.2149,
            "interval": {"gfd_lite2": {"low": 36.5, "high": 39.9}},
            "to_reconstructions": {
                "gfd_lite2": 21.125,
                "interval": {"gfd_lite2": {"low": 20.25, "high": 22.0}},
            },
        },
        "no_cfg": {"gfd_lite2": 52.9123, "interval": {"gfd_lite2": {"low": 50.25, "high": 55.5}}},
        "floor": {"gfd_lite2": 6.0625},
        "independent": {
            "gfd_lite2": 101.5,
            "to_reconstructions": {
                "gfd_lite2": 84.5,
                "interval": {"gfd_lite2": {"low": 82.0, "high": 87.0}},
            },
        },
        "swapped": {"own_class": 0.405, "prologue_class": 0.235, "samples": 0.82, "images": 200},
    },
    "probe": {"prologue_encoder_fast_top1": 0.7012, "visual_first8_encoder_fast_top1": 0.642, "val_images": 5000},
}


class Page(HTMLParser):
    """What a test asks of a page: its tags, the addresses it loads, its ids, its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def values(self, *names: str) -> list[str]:
        return [value or "" for _, attributes in self.tags for name, value in attributes.items() if name in names]


def build(folder: Path, params: Params, metrics: dict[str, dict[str, Any]]) -> Page:
    (folder / "metrics").mkdir(exist_ok=True)
    for stage, values in metrics.items():
        (folder / "metrics" / f"{stage}.json").write_text(json.dumps(values))
    write_report(
        params,
        folder / "metrics",
        folder / "figures",
        folder / "curves",
        folder / "watermark",
        folder / "index.html",
    )
    return Page((folder / "index.html").read_text())


def add_figures_and_curves(folder: Path) -> None:
    (folder / "figures").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    (folder / "figures" / "samples").mkdir()
    for name in (
        "samples/samples_cfg",
        "samples/samples_no_cfg",
        "held_prologue",
        "real_prologue",
        "swapped_prologues",
        "attention_maps",
        "attention_shares",
        "prologue_attention",
        "reconstructions",
        "codebook_usage",
        "per_position",
        "sweep",
    ):
        image_grid(images, 3).save(folder / "figures" / f"{name}.png")
    for stage in ("tokenizer", "ar"):
        write_curve(folder / "curves" / stage / "plots/metrics/train/loss.tsv", [(10, 6.5), (20, 5.25)])
        write_curve(folder / "curves" / stage / "plots/metrics/val/loss.tsv", [(20, 5.5)])


def write_curve(path: Path, points: list[tuple[int, float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("timestamp\tstep\tloss\n" + "".join(f"1\t{step}\t{value}\n" for step, value in points))
