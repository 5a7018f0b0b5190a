"""Studies: what their files say, what a plan foretells, and a run that is interrupted, goes on and reports failures."""

import json
import math
import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import scipy.stats
import yaml
from clone import Clone
from preloaded import Preloaded
from tiny import ROOT, TINY, write_image_folder

from prologue.core.errors import PrologueError
from prologue.core.files import read_json
from prologue.core.params_file import load_params
from prologue.core.variants import apply_overrides
from prologue.figures.studies import Point, draw_chart
from prologue.measures.seeds import Contrast, contrast
from prologue.studies import experiments, results
from prologue.studies.definition import SCALES, STUDIES, load_study, rows_at
from prologue.studies.experiments import failure
from prologue.studies.hours import StageHours
from prologue.studies.results import Result, mean_sweep, swept_by_all
from prologue.studies.saved import SavedRow
from prologue.studies.study import print_plan
from prologue.studies.table import Column, Row, Run, Study
from prologue.studies.text import as_frame, as_markdown

NAMES = sorted(path.stem for path in (ROOT / STUDIES).glob("*.yaml"))
PHOTOS = {"data.source": "photos"}
FIGURE: dict[str, object] = {"kind": "values", "y": ["psnr"], "title": "PSNR", "caption": "Higher is better."}
SMALL = {
    "title": "Small",
    "question": "Does it run?",
    "columns": ["psnr", "rfd"],
    "rows": [
        {"label": "2D", "variants": ["2d"], "overrides": PHOTOS, "paper": {"psnr": 20.71}},
        {"label": "broken", "overrides": {"data.classes": ["nothing"]}},
        {"label": "Post on {}, {} tokens", "variants": ["post"], "overrides": PHOTOS, "times": {"prologue.tokens": 2}},
    ],
    "figures": [FIGURE],
}


def test_a_row_that_failed_before_its_first_stage_tells_what_dvc_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*words: str) -> str:
        raise PrologueError("dvc queue logs row: ERROR: No output logs found for experiment 'row'")

    monkeypatch.setattr(experiments, "_dvc", fail)
    row = rows_at(load_study("table1"), "table1", "smoke")[0]
    assert failure(row).endswith("No output logs found for experiment 'row'")


def test_a_row_that_was_killed_and_run_again_has_the_state_of_its_last_run(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [  # as DVC lists them: by state
        {"name": "again", "status": "Running", "timestamp": datetime(2026, 1, 3)},
        {"name": "row", "status": "Failed", "timestamp": datetime(2026, 1, 1)},
        {"name": "row", "status": "Success", "timestamp": datetime(2026, 1, 2)},
        {"name": "again", "status": "Success", "timestamp": datetime(2026, 1, 1)},
    ]
    queue = SimpleNamespace(celery_queue=SimpleNamespace(status=lambda: listed))
    monkeypatch.setattr(experiments, "Repo", lambda: nullcontext(SimpleNamespace(experiments=queue)))
    assert experiments.queue_states() == {"row": "Success", "again": "Running"}


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("ar: loss is not finite\n\nERROR: failed to reproduce 'ar'", "ar: loss is not finite"),
        ("ar, process 1: the disk is full\nERROR: failed to reproduce 'ar'", "ar, process 1: the disk is full"),
        (
            "warning: step 200: only 3.1% of the prologue codes are in use\nTraceback (most recent call last):\n"
            "  File \"x.py\", line 1\ntorch.OutOfMemoryError: CUDA out of memory.\nERROR: failed to reproduce 'ar'",
            "torch.OutOfMemoryError: CUDA out of memory.",
        ),
        (
            "warning: a codebook\nERROR: failed to reproduce 'ar': exited with -9",
            "ERROR: failed to reproduce 'ar': exited with -9",
        ),
    ],
)
def test_a_row_that_failed_tells_why_and_no_warning(log: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "_dvc", lambda *_: log)
    assert failure(rows_at(load_study("table1"), "table1", "smoke")[0]) == reason


@pytest.fixture(autouse=True)
def _in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_every_study_has_valid_and_different_rows_at_every_scale(name: str, scale: str) -> None:
    study = load_study(name)
    if scale not in (set(SCALES) if name != "search" else {"small"}):
        with pytest.raises(PrologueError, match="has no rows"):
            rows_at(study, name, scale)
        return
    rows = rows_at(study, name, scale)
    assert len({row.name for row in rows}) == len({(row.label, row.seed) for row in rows}) == len(rows)
    assert all(re.fullmatch(r"[a-zA-Z0-9-]+", row.name) for row in rows)
    assert all(row.paper.keys() <= set(study.columns) for row in rows)
    if scale == "smoke":  # shards and reference are made once, of few images
        assert all(row.params.data == rows[0].params.data for row in rows)
        assert rows[0].params.data.train_limit is not None


def test_the_ablation_has_the_papers_values_at_its_scale_and_as_many_times_less_at_others() -> None:
    study = load_study("tableA1")
    values = {
        scale: [
            (row.params.prologue.codebook, row.params.prologue.tokens, round(row.params.prologue.tau, 9))
            for row in rows_at(study, "tableA1", scale)[:7]
        ]
        for scale in ("imagenet", "default")
    }
    assert values["imagenet"][:5] == [(1024, 16, 0.1), (256, 16, 0.1), (4096, 16, 0.1), (1024, 4, 0.1), (1024, 64, 0.1)]
    assert values["imagenet"][5:] == [(1024, 16, 0.01), (1024, 16, 1.0)]
    assert values["default"][:5] == [(128, 8, 1.0), (32, 8, 1.0), (512, 8, 1.0), (128, 2, 1.0), (128, 32, 1.0)]


def test_bad_studies_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PrologueError, match="there is no study table9; known: fig5"):
        load_study("table9")
    with pytest.raises(PrologueError, match="there is no scale huge; known: smoke"):
        rows_at(load_study("table1"), "table1", "huge")
    for change, message in (
        ({"columns": ["speed"]}, "nothing measures speed"),
        ({"headline": "is"}, "headline: is is no column"),
        ({"rows": [{"label": "a", "paper": {"fid": 1}}]}, "nothing measures fid"),
        ({"figures": [FIGURE | {"y": ["size"]}]}, "nothing measures size"),
        ({"figures": [FIGURE | {"kind": "sweep", "y": ["psnr"]}]}, "a sweep measures gfd and is, not psnr"),
        ({"figures": [FIGURE | {"kind": "lines", "x": "ar.size"}]}, r"x: 'ar\.size' is neither a param nor measured"),
        ({"baseline": "3D"}, "there is no row 3D; known: 2D, broken"),
        ({"figures": [{"kind": "ratios", "y": ["psnr"], "title": "", "caption": ""}]}, "ratios are to the baseline"),
        ({"rows": [{"label": "a", "color": 1}]}, "color"),
        ({"rows": [{"label": "a", "times": {"prologue.size": 2}}]}, r"there is no param prologue\.size"),
        ({"rows": [{"label": "a", "times": {"probe.mae.steps": 2}}]}, "steps is '5epochs', which is no number"),
        ({"rows": [{"label": "a", "variants": {"imagenet": []}}]}, "no rows at the scale smoke"),
        ({"rows": [{"label": "a"}, {"label": "a", "overrides": {"seed": 4}}]}, "two rows of the label a; give each"),
        (
            {"baseline": "tau {}", "rows": [{"label": "tau {}", "overrides": {"prologue.tau": 0.5}}]},
            "no row has the baseline's label tau {}; known: tau 0.5",
        ),
    ):
        monkeypatch.chdir(ROOT)
        (tmp_path / "studies").mkdir(exist_ok=True)
        (tmp_path / "studies" / "bad.yaml").write_text(yaml.safe_dump(SMALL | change))
        with monkeypatch.context() as patch:
            patch.setattr("prologue.studies.definition.STUDIES", tmp_path / "studies")
            with pytest.raises(PrologueError, match=message):
                rows_at(load_study("bad"), "bad", "smoke")


def test_the_scale_of_imagenet_wants_imagenet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(PrologueError, match=r"set data\.source in params\.yaml, which is data/fashion_mnist\.zip"):
        print_plan("table1", "imagenet", None, keep=False, jobs=1)


def test_a_plan_counts_by_the_step_and_tells_nothing_of_other_sizes(tmp_path: Path) -> None:
    params = load_params(ROOT / "params.yaml")
    hours = StageHours(tmp_path, ROOT / "reports" / "metrics", params)
    seconds = {
        stage: read_json(ROOT / f"reports/metrics/{stage}.json")["seconds"] for stage in ("tokenizer", "samples")
    }
    stages = list(seconds)
    assert hours.of(stages, params) == pytest.approx(sum(seconds.values()) / 3600)
    assert isinstance(params.stage1.steps, int)
    longer = apply_overrides({"stage1.steps": 3 * params.stage1.steps}, ROOT / "params.yaml")
    assert hours.of(stages, longer) == pytest.approx((3 * seconds["tokenizer"] + seconds["samples"]) / 3600)
    for change in ({"data.image_size": 64}, {"tokenizer.encoder.layers": 12}, {"ar.batch": 64}):
        assert hours.of(stages, apply_overrides(dict(change), ROOT / "params.yaml")) is None


def test_every_row_is_run_with_every_seed() -> None:
    study = load_study("table1").model_copy(update={"seeds": [0, 3]})
    rows = rows_at(study, "table1", "default")
    assert [row.seed for row in rows] == [0] * 4 + [3] * 4
    assert [row.params.seed for row in rows] == [row.seed for row in rows]
    assert len({row.name for row in rows}) == 8
    assert [row.label for row in rows[:4]] == [row.label for row in rows[4:]]


def test_tables_tell_mean_spread_and_paired_difference(tmp_path: Path) -> None:
    own, baseline = {0: 8.0, 1: 9.0, 2: 10.0}, {0: 10.0, 1: 10.0, 2: 13.0}
    found = contrast(own, baseline)
    assert found is not None
    test = scipy.stats.ttest_rel(list(own.values()), list(baseline.values()))
    ends = test.confidence_interval(0.95)
    assert (found.difference, found.low, found.high) == pytest.approx((-2, ends.low, ends.high))
    logs = scipy.stats.ttest_1samp([math.log(own[s] / baseline[s]) for s in own], 0)
    inside = logs.confidence_interval(0.95)
    assert found.ratio == pytest.approx((0.8 * 0.9 * 10 / 13) ** (1 / 3))
    assert (found.ratio_low, found.ratio_high) == pytest.approx((math.exp(inside.low), math.exp(inside.high)))
    assert not found.is_certain
    certain = contrast({0: 1.0, 1: 1.1, 2: 1.05}, baseline)
    assert certain is not None
    assert certain.is_certain
    assert contrast({4: 1.0}, baseline) is None
    runs = [Run(seed=seed, status="done") for seed in own] + [Run(seed=3, status="not run")]
    column = Column(key="gfd", label="gFD")
    row = Row(label="ours", runs=runs, metrics={"gfd": 9.0}, spread={"gfd": 1.0}, against_baseline={"gfd": found})
    row.paper = {"gfd": 5.0}
    alone = Row(
        label="2D", paper={"gfd": 4.0}, runs=[Run(status="done", intervals={"gfd": (4.0, 6.0)})], metrics={"gfd": 5.0}
    )
    study = Study.model_validate(
        {"name": "a", "title": "A", "question": "?", "scale": "small", "created": "2026-11-26T12:00:00"}
        | {"columns": [column], "seeds": [0, 1, 2, 3], "baseline": "2D", "rows": [row, alone]}
    )
    text = as_markdown(study)
    assert "| ours | not run: seed 3 | 9 ± 1 |" in text
    assert "| 2D | done | 5 [4, 6] |" in text
    assert f"| gFD | -2 [{ends.low:+.4g}, {ends.high:+.4g}]; ratio 0.821" in text
    assert "] (1.25) |" in text  # the paper's ratio
    assert len(as_frame(study)) == 5


def test_what_other_params_found_is_outdated_and_what_other_code_found_is_told(tmp_path: Path) -> None:
    row = rows_at(load_study("table1"), "table1", "smoke")[0]
    (tmp_path / "rows").mkdir()
    for params, status in (({"ar.batch": row.params.ar.batch}, "earlier code"), ({"ar.batch": 99}, "outdated")):
        saved = SavedRow(commit="c", params=params, metrics={}, lock={})
        (tmp_path / "rows" / f"{row.name}.json").write_text(saved.model_dump_json())
        assert results._result(row, None, False, tmp_path).status == status
    of_images = {"stages": {"shards": {"deps": [{"path": "data/source.json", "md5": "of other images"}]}}}
    saved = SavedRow(commit="c", params={}, metrics={}, lock=of_images)
    (tmp_path / "rows" / f"{row.name}.json").write_text(saved.model_dump_json())
    assert results._result(row, None, False, tmp_path).status == "outdated"
    (tmp_path / "rows" / f"{row.name}.json").unlink()
    assert results._result(row, None, False, tmp_path).status == "not run"


def test_rows_differ_by_more_than_chance_over_seeds_or_by_intervals_over_images() -> None:
    def row(*values: float, interval: tuple[float, float] | None = None) -> Row:
        within = {} if interval is None else {"gfd": interval}
        runs = [Run(seed=s, status="done", metrics={"gfd": v}, intervals=within) for s, v in enumerate(values)]
        return Row(label="a", runs=runs)

    assert row(1.0, 2.0, 3.0).differs(row(2.0, 3.1, 4.0), "gfd")
    assert not row(1.0, 2.0, 3.0).differs(row(2.0, 1.0, 9.0), "gfd")
    assert row(1.0, interval=(0.9, 1.1)).differs(row(1.3, interval=(1.2, 1.4)), "gfd")
    assert not row(1.0, interval=(0.9, 1.1)).differs(row(1.15, interval=(1.05, 1.25)), "gfd")
    assert row(1.0).differs(row(1.1), "gfd") is None


def test_sweeps_are_compared_over_seeds_that_all_rows_have() -> None:
    first = rows_at(load_study("figA1"), "figA1", "smoke")[0]

    def result(seed: int, distance: float | None) -> Result:
        text = None if distance is None else f"visual.guidance,gfd_lite2\n2.0,{distance + 4}\n1.0,{distance}\n"
        saved = SavedRow(commit="c", params={}, metrics={}, lock={}, sweep=text)
        return Result(replace(first, seed=seed), saved if text else None, "done" if text else "not run")

    whole, partly = [result(1, 10.0), result(2, 12.0)], [result(1, None), result(2, 30.0)]
    assert swept_by_all([whole, whole]) == {1, 2}
    both = mean_sweep(whole, {1, 2})
    assert both is not None
    assert both.to_numpy().tolist() == [[1.0, 11.0], [2.0, 15.0]]
    assert swept_by_all([whole, partly, []]) == {2}
    assert swept_by_all([whole[:1], partly]) == set()
    assert mean_sweep(whole, set()) is None


def test_figures_say_what_they_show(tmp_path: Path) -> None:
    figures = {figure.kind: figure for name in ("table1", "fig5", "figA1") for figure in load_study(name).figures}
    sweep = pd.DataFrame({"visual.guidance": [2.0, 1.0], "gfd_lite2": [8.0, 9.0], "is_lite2": [3.0, 2.0]})
    values = {"prologue.ar_weight": 0.1, "rfd": 2.5, "gfd": 4.0, "gfd_plain": 9.0}
    differing = {
        "gfd": Contrast(seeds=[0, 1], difference=-1, low=-2, high=0, ratio=0.8, ratio_low=0.6, ratio_high=1.1),
        "rfd": Contrast(seeds=[0], difference=1, ratio=1.25),
    }
    points = [
        Point("a", "into a", values, {"gfd": 0.25}, sweep, differing, {"gfd": 0.5}),
        Point("b", "into a", {"prologue.ar_weight": 0.01, "rfd": 3.5, "gfd": 5.0, "gfd_plain": 8.0}, {}, None),
        Point("c", "into b", {"prologue.ar_weight": 0.1, "rfd": 4.5, "gfd": None, "gfd_plain": 6.0}, {}, None),
        Point("alone", "alone", {"prologue.ar_weight": 3.0, "rfd": 1.5, "gfd": None, "gfd_plain": 7.0}, {}, None),
    ]
    told = {kind: draw_chart(figure.chart, points, {}, tmp_path / f"{kind}.svg") for kind, figure in figures.items()}
    assert told["values"] is not None
    assert "gfd: a 4 ± 0.25; b 5." in told["values"]
    assert "rfd: into a 3.5 at 0.01, 2.5 at 0.1; into b 4.5 at 0.1; alone 1.5." in str(told["lines"])
    assert "a from 9 to 8" in str(told["sweep"])
    assert "gfd_lite2" in (tmp_path / "sweep.svg").read_text()
    assert told["ratios"] == "gfd: a 0.800 [0.600, 1.100], the paper's 0.50. rfd: a 1.250"
    assert "0.800 [0.600, 1.100]" in (tmp_path / "ratios.svg").read_text()
    for kind in told:
        assert (tmp_path / f"{kind}.svg").stat().st_size > 1000
        assert (tmp_path / f"{kind}.png").stat().st_size > 1000
    one_seed = [replace(point, spread={}, interval={"gfd": (3.5, 4.75)}) for point in points[:1]]
    assert "gfd: a 4 [3.5, 4.75]" in str(draw_chart(figures["values"].chart, one_seed, {}, tmp_path / "one.svg"))
    assert one_seed[0].error("gfd") == (0.5, 0.75)
    for kind in ("sweep", "ratios"):
        assert draw_chart(figures[kind].chart, points[1:], {}, tmp_path / "none.svg") is None
    assert not (tmp_path / "none.svg").exists()


def test_a_study_survives_interruption_and_failing_rows_and_reruns_nothing_that_is_done(
    tmp_path: Path, preloaded: Preloaded
) -> None:
    clone = Clone(tmp_path / "clone", preloaded)
    clone.change(TINY | PHOTOS | {"data.val_fraction": 0.2})
    (clone.folder / "studies").mkdir()
    (clone.folder / "studies" / "small.yaml").write_text(yaml.safe_dump(SMALL | {"baseline": "2D"}))
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "study")
    assert clone.stages_run("repro", "reference") == {"plan", "shards", "reference"}
    write_image_folder(clone.folder / "others", per_class=5)
    clone.change({"data.source": "others"})  # the rows say their own
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "another source")
    plan = clone.run("prologue", "study", "small", "--plan").stdout
    assert "shards, reference" in " ".join(plan.split())
    assert "3 experiments to run" in plan

    command = [str(Path(sys.executable).parent / "prologue"), "study", "small"]
    first = subprocess.Popen(
        command,
        cwd=clone.folder,
        env=clone.env,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    assert first.stdout is not None
    for line in first.stdout:
        if line.rstrip().endswith(": success"):  # DVC's queue has an order of its own
            break
    done = line.split("  ")[1].removesuffix(", seed 0: success\n")
    first.send_signal(signal.SIGINT)
    assert re.search(r"1 of 3 runs done(, 1 failed)?, [12] not run", first.stdout.read())
    assert first.wait(timeout=120) == 1

    plan = clone.run("prologue", "study", "small", "--plan").stdout
    assert "2 experiments to run" in plan
    assert "6 experiments to run" in clone.run("prologue", "study", "small", "--seeds", "1-2", "--plan").stdout
    again = clone.run("prologue", "study", "small")
    assert again.returncode == 1
    assert "1 rows failed: broken; the table says why" in again.stderr
    assert f"{done}, seed" not in again.stdout  # it was not run again
    folder = clone.folder / "reports" / "studies" / "small-default"
    study = json.loads((folder / "study.json").read_text())
    runs = [row["runs"][0] for row in study["rows"]]
    assert [run["status"] for run in runs] == ["done", "failed", "done"]
    assert runs[1]["reason"].startswith("shards: ")
    assert "nothing" in runs[1]["reason"]
    assert study["rows"][2]["label"] == "Post on photos, 6 tokens"
    assert study["rows"][2]["params"]["prologue.tokens"] == 6
    assert study["rows"][0]["metrics"]["psnr"] == study["rows"][2]["metrics"]["psnr"]  # of the same frozen tokenizer
    table = pd.read_csv(folder / "table.csv")
    assert table["paper (ImageNet 256): PSNR"][0] == 20.71
    against = study["rows"][2]["against_baseline"]["psnr"]
    assert (against["difference"], against["low"], against["ratio"]) == (0, None, 1)
    for reference in clone.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split():
        clone.run("git", "update-ref", "-d", reference)  # as on another machine: the saved rows stay
    clone.edit("report/verdict.py", "at least 20 dB", "at least 21 dB")  # no stage of the study
    clone.run("git", "commit", "-qam", "a later commit")
    assert "1 experiments to run" in clone.run("prologue", "study", "small", "--plan").stdout  # the broken one
    alike = {"label": "the same", "overrides": PHOTOS | {"prologue.mode": "none"}}
    (clone.folder / "studies" / "other.yaml").write_text(yaml.safe_dump(SMALL | {"rows": [alike]}))
    other = clone.run("prologue", "study", "other").stdout
    assert "1 of 1 runs done" in other
    assert "running" not in other  # the first study has that row
    clone.edit("models/transformer.py", "import math\n", "import math\n\nmath.pi = 3\n")
    assert "3 experiments to run" in clone.run("prologue", "study", "small", "--plan").stdout
    assert "1 experiments to run" in clone.run("prologue", "study", "small", "--keep", "--plan").stdout
    assert "2 of 3 runs done (2 by earlier code), 1 failed" in clone.run("prologue", "study", "small", "--keep").stdout
    kept = json.loads((folder / "study.json").read_text())["rows"]
    assert [row["runs"][0]["status"] for row in kept] == ["earlier code", "failed", "earlier code"]
    assert "Rows of earlier code have the params and images of today." in (folder / "table.md").read_text()
    assert [row["metrics"]["psnr"] for row in kept] == [row["metrics"]["psnr"] for row in study["rows"]]
    clone.change({"ar.batch": 2})
    assert "3 experiments to run" in clone.run("prologue", "study", "small", "--keep", "--plan").stdout  # other params
    assert {"index.html", "table.md", "figure_1.svg", "figure_1.png"} <= {path.name for path in folder.iterdir()}


def test_the_readme_quotes_the_table_of_its_study() -> None:
    table = (ROOT / "reports" / "studies" / "table1-small" / "table.md").read_text()
    quoted = [line for line in (ROOT / "README.md").read_text().splitlines() if "; ratio " in line]
    assert len(quoted) == 4
    assert [line for line in quoted if line not in table.splitlines()] == []
