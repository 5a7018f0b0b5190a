"""The report: self-contained, honest about what is missing, and true to the metrics; its grids and curves."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_sample import METRICS, add_figures_and_curves, build, write_curve
from tiny import tiny_params

from prologue.core.errors import PrologueError
from prologue.core.params import Params
from prologue.core.params_file import load_params
from prologue.figures.curves import read_curves, training_curves
from prologue.figures.grids import image_grid

LOADING = {"src", "srcset", "href", "xlink:href", "data", "poster", "action"}


@pytest.fixture
def params() -> Params:
    return load_params(Path(__file__).parents[1] / "params.yaml")


GENERATION: dict[str, Any] = METRICS["evaluate_generation"]


def generation(gap: float, width: float) -> dict[str, Any]:
    """The metrics of generation with another distance to reconstructions; independent ids have 84.5 [82, 87]."""
    interval = {"gfd_lite2": {"low": gap - width, "high": gap + width}}
    cfg = GENERATION["cfg"] | {"to_reconstructions": {"gfd_lite2": gap, "interval": interval}}
    return {"evaluate_generation": GENERATION | {"cfg": cfg}}


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
    for shown in (
        "22.18 dB",
        "rfd_lite2 12.35",
        "38.21 [36.5, 39.9]",
        "52.91 [50.25, 55.5] not",
        "4 times closer",
        "21.12 [20.25, 22]",
        "prologue 7.75 + EOS 0 + visual 257.5",
        "6.2 % of the attention, 0.5 times what even reading would give it: it is read less than evenly",
        "40.5 % look like their own class and 23.5 % like that of the prologue: the class says more.",
        "6.062",
        "17.34 nats",
        "62.5 %",
        "70.1 %",
        "4.022",
    ):
        assert shown in text
    for shown in (
        "10 min 00 s",
        "encoder 1,795,008",
        "no_cfg 41.75 images/s",
        "visual scale 1.75",
        "ab12" * 16,
        "tau: 1.0",
    ):
        assert shown in text


@pytest.mark.parametrize(
    ("changes", "headline"),
    [
        ({}, "It worked: all 5 checks hold."),
        ({"evaluate_likelihood": {"prologue_gain_nats": 0.2}}, "It worked in part: 4 of 5 checks hold."),
        # half a point more on 5,000 images is within the noise, five points less are not
        (
            {"probe": METRICS["probe"] | {"prologue_encoder_fast_top1": 0.647}},
            "It worked in part: 4 of 5 checks hold, 1 not decided.",
        ),
        ({"probe": METRICS["probe"] | {"prologue_encoder_fast_top1": 0.59}}, "It worked in part: 4 of 5 checks hold."),
        # twice as close as independent ids, within the noise; then certainly not
        (generation(41.0, 4.0), "It worked in part: 4 of 5 checks hold, 1 not decided."),
        (generation(60.0, 4.0), "It worked in part: 4 of 5 checks hold."),
        ({"evaluate_generation": {}}, "Incomplete: 4 of 4 checks hold, 1 not run."),
    ],
)
def test_verdict_follows_the_metrics(
    tmp_path: Path, params: Params, changes: dict[str, dict[str, Any]], headline: str
) -> None:
    text = build(tmp_path, params, METRICS | changes).text
    assert headline in text
    assert ("Not met: prologue is read (0.2 nats)." in text) == ("evaluate_likelihood" in changes)
    assert ("Not decided: generation (2.061 times closer)." in text) == (changes == generation(41.0, 4.0))


@pytest.mark.parametrize(
    ("tokenizer", "ar", "learned"),
    [
        ("train", "train", "A tokenizer and an AR model learned from"),
        ("llamagen", "train", "An AR model learned from the ids that an imported tokenizer (llamagen) makes of"),
        ("published", "published", "The tokenizer and the AR model were imported (published), and nothing was trained"),
    ],
)
def test_what_is_imported_is_not_said_to_be_trained(
    tmp_path: Path, params: Params, tokenizer: str, ar: str, learned: str
) -> None:
    sources = {"tokenizer": tokenizer, "ar": ar}
    own = params.model_copy(
        update={name: getattr(params, name).model_copy(update={"source": kind}) for name, kind in sources.items()}
    )
    text = build(tmp_path, own, METRICS).text
    assert learned in text
    assert ("images that no training here saw" in text) == (tokenizer != "train")


def test_words_under_pictures_follow_the_numbers(tmp_path: Path, params: Params) -> None:
    read = {"attention": {"attention_to_prologue": {"mean": 0.25, "uniform": 0.125}}}
    for own, other, told in (
        (0.2, 0.6, "the prologue says more"),
        (0.29, 0.24, "which of both says more is not decided"),  # 10 of 200 draws
    ):
        swapped = GENERATION["swapped"] | {"own_class": own, "prologue_class": other}
        text = build(tmp_path, params, METRICS | read | {"evaluate_generation": GENERATION | {"swapped": swapped}}).text
        assert "2 times what even reading would give it: it is read more than evenly." in text
        assert f"like that of the prologue: {told}." in text
    alone = {key: share for key, share in GENERATION["swapped"].items() if key != "samples"}
    text = build(tmp_path, params, METRICS | {"evaluate_generation": GENERATION | {"swapped": alone}}).text
    assert "(Nearest mean of features.)" in text


def test_missing_parts_say_not_run(tmp_path: Path, params: Params) -> None:
    page = build(tmp_path, params, {})
    assert page.text.count("Not run: figure") == 12
    assert page.source.count('<p class="value">not run</p>') == 7
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
    svg = training_curves(tmp_path, "ar")
    assert svg is not None
    assert svg.count("<svg ") == 1
    assert "validation 3.5" in svg
    assert svg == training_curves(tmp_path, "ar")
    assert 'id="ar-ar-loss"' in svg
    assert training_curves(tmp_path / "nothing", "ar") is None


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


def test_a_sweep_of_temperatures_is_told_beside_what_it_adopted(tmp_path: Path) -> None:
    params = tiny_params(sweep__values=[], sweep__temperatures=[0.9, 1.0], sweep__adopt=True)
    distances = {"cfg": {"0.9": 358.25, "1": 350.91}, "no_cfg": {"0.9": 366.21, "1": 374.81}}
    tried = {
        run: {value: {"gfd_lite2": distance, "is_lite2": 2.5} for value, distance in own.items()}
        for run, own in distances.items()
    }
    adopted = {"cfg": {"visual.temperature": 0.75}, "no_cfg": {"visual.temperature": 0.9}}
    page = build(tmp_path, params, {"sweep": {"temperatures": tried}, "samples": {"adopted": adopted}})
    rows = re.findall(r"<tr><th scope=\"row\">([\d.]+)</th>(.+)</tr>", (tmp_path / "index.html").read_text())
    assert [(value, re.findall(r">([\d.]+)<", cells)) for value, cells in rows] == [
        ("0.9", ["358.2", "366.2"]),
        ("1", ["350.9", "374.8"]),
    ]
    assert "visual temperature 0.75." in page.text
    assert "figure sweep.png" not in page.text, "nothing but temperatures was swept"
    without = build(tmp_path, tiny_params(sweep__values=[]), {"sweep": {}})
    assert "temperature of visual tokens" not in without.text
