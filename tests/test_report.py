"""The report: self-contained, honest about what is missing, and true to the metrics; its grids and curves."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prologue.errors import PrologueError
from prologue.figures.curves import read_curves, training_curves
from prologue.figures.grids import image_grid
from prologue.params import Params, load_params
from prologue.report.front import write_report

METRICS: dict[str, dict[str, Any]] = {
    "shards": {"train": {"images": 20000}, "val": {"images": 5000}, "classes": 10, "seconds": 6.0},
    "tokenizer": {"parameters": {"encoder": 1795008}, "steps": 500, "seconds": 400.0, "peak_memory_mb": 2100},
    "evaluate_likelihood": {"visual_loss": 4.0219, "prologue_gain_nats": 17.3421},
    "ar": {
        "images_per_second": None,
        "checkpoint_sha256": "ab12" * 16,
    },
    "samples": {"images_per_second": {"cfg": 22.25, "no_cfg": 41.75}, "seconds": 194.0},
    "evaluate_reconstruction": {"rfd_lite2": 12.3456, "psnr": 22.1834, "visual_usage": 0.625},
    "evaluate_generation": {"cfg": {"gfd_lite2": 38.2149}, "no_cfg": {"gfd_lite2": 52.9123}},
    "probe": {"prologue_encoder_fast_top1": 0.7012, "visual_first8_encoder_fast_top1": 0.642, "val_images": 5000},
}
LOADING = {"src", "srcset", "href", "xlink:href", "data", "poster", "action"}


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


@pytest.fixture
def params() -> Params:
    return load_params(Path(__file__).parents[1] / "params.yaml")


def build(folder: Path, params: Params, metrics: dict[str, dict[str, Any]]) -> Page:
    (folder / "metrics").mkdir(exist_ok=True)
    for stage, values in metrics.items():
        (folder / "metrics" / f"{stage}.json").write_text(json.dumps(values))
    write_report(params, folder / "metrics", folder / "figures", folder / "curves", folder / "index.html")
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


def test_report_loads_nothing_from_outside(tmp_path: Path, params: Params) -> None:
    add_figures_and_curves(tmp_path)
    page = build(tmp_path, params, METRICS)
    site = {"index.html", "studies/index.html"}
    assert all(value.startswith(("data:", "#")) or value in site for value in page.values(*LOADING))
    assert not {"link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search(r"@import|url\((?!#)", page.source)
    assert page.source.count("<img ") == 12
    assert page.source.count("<svg ") == 2


def test_report_is_accessible(tmp_path: Path, params: Params) -> None:
    add_figures_and_curves(tmp_path)
    page = build(tmp_path, params, METRICS)
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg")
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.values("href", "xlink:href") if link.startswith("#")} <= set(ids)


def test_report_shows_numbers_as_measured(tmp_path: Path, params: Params) -> None:
    text = build(tmp_path, params, METRICS).text
    for shown in ("22.18 dB", "rfd_lite2 12.35", "38.21", "52.91 without", "17.34 nats", "62.5 %", "70.1 %", "4.022"):
        assert shown in text
    for shown in ("10 min 00 s", "encoder 1,795,008", "no_cfg 41.75 images/s", "ab12" * 16, "tau: 1.0"):
        assert shown in text


@pytest.mark.parametrize(
    ("changes", "headline"),
    [
        ({}, "It worked: all 5 checks hold."),
        ({"evaluate_likelihood": {"prologue_gain_nats": 0.2}}, "It worked in part: 4 of 5 checks hold."),
        # half a point more on 5,000 images is within the noise
        ({"probe": METRICS["probe"] | {"prologue_encoder_fast_top1": 0.647}}, "It worked in part: 4 of 5 checks hold."),
        ({"evaluate_generation": {}}, "Incomplete: 4 of 4 checks hold, 1 not run."),
    ],
)
def test_verdict_follows_the_metrics(
    tmp_path: Path, params: Params, changes: dict[str, dict[str, Any]], headline: str
) -> None:
    text = build(tmp_path, params, METRICS | changes).text
    assert headline in text
    assert ("Not met: prologue information gain (0.2 nats)." in text) == ("evaluate_likelihood" in changes)


def test_missing_parts_say_not_run(tmp_path: Path, params: Params) -> None:
    page = build(tmp_path, params, {})
    assert page.text.count("Not run: figure") == 12
    assert page.source.count('<p class="value">not run</p>') == 6
    assert "Nothing to judge yet" in page.text


def test_baselines_have_no_prologue_sections(tmp_path: Path, params: Params) -> None:
    baseline = params.model_copy(update={"prologue": params.prologue.model_copy(update={"mode": "none"})})
    page = build(tmp_path, baseline, {stage: METRICS[stage] for stage in METRICS if stage not in ("ar", "probe")})
    assert "It worked: all 3 checks hold." in page.text
    assert "Prologue held fixed" not in page.text
    assert "figure prologue_attention" not in page.text


def test_the_probe_has_curves_where_it_was_trained(tmp_path: Path, params: Params) -> None:
    write_curve(tmp_path / "curves" / "probe" / "train" / "prologue_loss.tsv", [(10, 2.25), (20, 1.5)])
    heading = "<h3>Linear probe</h3>"
    assert heading not in build(tmp_path, params, METRICS).source
    mae = params.model_copy(update={"probe": params.probe.model_copy(update={"protocol": "mae"})})
    page = build(tmp_path, mae, METRICS)
    assert heading in page.source
    assert "probe, prologue loss: train from 2.25 to 1.5 at step 20" in page.source


def test_odd_names_are_escaped(tmp_path: Path, params: Params) -> None:
    odd = '<script src="http://x">&"\'</script>'
    data = params.data.model_copy(update={"source": Path(odd)})
    page = build(tmp_path, params.model_copy(update={"data": data}), METRICS | {odd[:7]: {odd: [odd, None]}})
    assert page.source.count("<script") == 1  # the page's own
    assert f"{odd}, None" in page.text


def test_unreadable_metrics_name_the_file(tmp_path: Path, params: Params) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "ar.json").write_text('{"val": ')
    with pytest.raises(PrologueError, match=r"ar\.json is no JSON object"):
        build(tmp_path, params, {})


def test_curves_join_splits_and_keep_the_last_value_of_a_step(tmp_path: Path) -> None:
    write_curve(tmp_path / "train" / "ar_loss.tsv", [(10, 5.0), (20, 4.0), (20, 3.0), (30, float("nan"))])
    write_curve(tmp_path / "plots/metrics/val/ar_loss.tsv", [(20, 3.5)])
    assert read_curves(tmp_path) == {"ar loss": {"train": {10: 5.0, 20: 3.0}, "validation": {20: 3.5}}}
    svg = training_curves(tmp_path)
    assert svg is not None
    assert svg.count("<svg ") == 1
    assert "validation 3.5" in svg
    assert svg == training_curves(tmp_path)
    assert training_curves(tmp_path / "nothing") is None


def test_grid_enlarges_without_blur_and_labels_rows() -> None:
    images = np.zeros((3, 32, 32, 3), np.uint8)
    images[1, :, :16] = 255, 0, 0
    plain = np.asarray(image_grid(images, 2, gap=4))
    assert plain.shape == (4 + 2 * 68, 4 + 2 * 68, 3)
    assert (plain[4:68, 72:104] == (255, 0, 0)).all()
    assert not plain[4:68, 104:136].any()
    assert (plain[72:, 72:] == 255).all()  # the last row is short
    labelled = image_grid(images, 2, ["coat", "a label that is far too long to stand beside a picture"])
    margin = labelled.width - plain.shape[1]
    assert 0 < margin < 300
    assert (np.asarray(labelled)[:68, :margin] < 128).any()
    with pytest.raises(ValueError, match="2 rows"):
        image_grid(images, 2, ["coat"])
