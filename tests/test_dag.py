"""The pipeline as DVC runs it: a whole run at toy size, and reruns of what changed only."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from clone import STAGES, Clone
from preloaded import Preloaded
from safetensors.torch import load_file
from tiny import ROOT, TINY, write_image_folder
from waiting import wait_until

from prologue.models.saved import load_tokenizer

PHOTOS = {"data.source": "photos", "data.val_fraction": 0.2}


def test_a_users_folder_runs_through_the_whole_pipeline_and_reruns_only_what_changed(
    tmp_path: Path, preloaded: Preloaded
) -> None:
    clone = Clone(tmp_path / "clone", preloaded)
    clone.change(TINY | PHOTOS)
    assert clone.stages_run("repro") == STAGES
    for made in ("reports/index.html", "data/samples/cfg.npz", "reports/figures/samples/held_prologue.png"):
        assert (clone.folder / made).is_file()
    assert clone.stages_run("repro") == set()

    clone.change({"sampling.no_cfg.visual.temperature": 0.9})
    assert clone.stages_run("repro") == {"sweep", "samples", "evaluate_generation", "report"}
    clone.change({"sampling.no_cfg.visual.temperature": 1.0})
    assert clone.stages_run("repro") == set()  # from the run-cache

    clone.edit("report/verdict.py", '"""Whether a run worked', '"""Said otherwise: whether a run worked')
    clone.edit("training/loop.py", "import time\n", "import time  # of a comment nothing follows\n")
    (clone.folder / "src/prologue/models/empty.py").touch()
    assert clone.stages_run("repro") == {"plan"}
    clone.edit("report/verdict.py", "at least 20 dB", "at least 21 dB")
    assert clone.stages_run("repro") == {"plan", "report"}
    clone.edit("probe/fast.py", "WEIGHT_DECAY = 1e-4", "WEIGHT_DECAY = 1e-3")
    assert clone.stages_run("repro") - {"report"} == {"plan", "probe"}
    clone.change({"stage1.checkpoint_every": 3, "ar.validation_grid": 2})  # nothing that a result depends on
    assert clone.stages_run("repro") == {"plan", "report"}  # the report lists all params

    clone.change({"prologue.tokens": 2})
    assert clone.stages_run("repro") == STAGES - {"shards", "reference"}


@pytest.mark.slow
def test_stages_start_as_users_start_them(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    clone.change(TINY | PHOTOS)
    done = clone.run("dvc", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "accelerate" not in done.stderr  # nothing but what a user wants to see
    assert clone.metrics("report")["figures"] > 10


def test_a_killed_stage_leaves_no_output_behind(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    clone.change(TINY | PHOTOS | {"stage1.steps": 10**6})
    subprocess.run(["python", "stages/shards.py"], cwd=clone.folder, env=clone.env, check=True, timeout=60)
    training = subprocess.Popen(["python", "stages/tokenizer.py"], cwd=clone.folder, env=clone.env)
    try:
        wait_until(lambda: bool(list(clone.folder.glob(".work/tokenizer/*/step_*"))) or training.poll() is not None)
        assert training.poll() is None
    finally:
        training.kill()
        training.wait()
    assert not (clone.folder / "models" / "tokenizer").exists()
    assert not (clone.folder / "reports" / "metrics" / "tokenizer.json").exists()


@pytest.mark.slow
def test_every_system_runs_to_its_report_and_post_reuses_the_2d_tokenizer(tmp_path: Path, preloaded: Preloaded) -> None:
    clone = Clone(tmp_path / "clone", preloaded)
    clone.change(TINY | PHOTOS | {"prologue.mode": "none"})
    assert clone.stages_run("repro") == STAGES
    frozen = clone.metrics("evaluate_reconstruction")

    clone.change({"prologue.mode": "post"})
    assert clone.stages_run("repro") == STAGES - {"shards", "reference", "tokenizer"}
    assert clone.metrics("attach")["attached"]
    post = clone.metrics("evaluate_reconstruction")
    for measure in ("psnr", "ssim", "l1", "rfd_lite2"):
        assert post[measure] == frozen[measure]

    for system in ({"prologue.mode": "onestage"}, {"prologue.mode": "routed", "tokenizer.layout": "1d"}):
        clone.change(system)
        assert clone.stages_run("repro") == STAGES - {"shards", "reference"}
    assert "ar_loss" in clone.metrics("tokenizer")["val"]


@pytest.mark.slow
def test_a_published_folder_takes_the_place_of_training(tmp_path: Path, preloaded: Preloaded) -> None:
    clone = Clone(tmp_path / "clone", preloaded)
    classes = tuple(f"kind {number}" for number in range(10))  # as many as the checkpoint knows
    write_image_folder(clone.folder / "ten", per_class=5, classes=classes)
    shutil.copytree(ROOT / "tests" / "published" / "2d", clone.folder / "data" / "published" / "2d")
    clone.change(TINY | {"data.source": "ten", "data.val_fraction": 0.2})
    flags = clone.run("prologue", "import", "data/published/2d").stdout.split()
    assert clone.stages_run("exp", "run", *flags) == STAGES
    assert clone.metrics("tokenizer")["imported"]
    assert clone.metrics("ar")["imported"]
    assert "train" not in clone.metrics("tokens")  # nothing trains on them
    tokenizer = load_tokenizer(clone.folder / "models" / "tokenizer")
    expected = np.load(ROOT / "tests" / "published" / "2d" / "expected.npz")
    tokens = tokenizer.encode(torch.from_numpy(expected["images"]))
    assert torch.equal(tokens.visual, torch.from_numpy(expected["ema_token_ids"]))

    # a prologue for the published tokenizer, and an AR model on its ids
    ran = clone.stages_run("exp", "run", "-S", "prologue.mode=post", "-S", "ar.source=train")
    assert ran == STAGES - {"shards", "reference"}  # an import is checked against all of the params, so it runs
    before, after = (
        load_file(clone.folder / "models" / name / "model.safetensors") for name in ("tokenizer", "attached")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert clone.metrics("attach")["attached"]

    clone.change({"tokenizer.codebook": 97})
    refused = clone.run("dvc", "repro", "tokenizer")
    assert refused.returncode != 0
    assert "tokenizer.codebook is 97, the checkpoint has 96" in refused.stdout + refused.stderr


def test_a_source_is_looked_at_in_every_run_whatever_its_names_and_links_are(
    tmp_path: Path, preloaded: Preloaded
) -> None:
    clone = Clone(tmp_path / "clone", preloaded)
    clone.change(TINY | {"data.max_rejected": 0.1})
    (clone.folder / ".git" / "info" / "exclude").write_text("/my photos\n")  # git does not keep them
    photos = clone.folder / "my photos"
    write_image_folder(photos, per_class=12, classes=("yes", "no", "é"))
    (photos / "yes" / "gone.jpg").symlink_to("nowhere.jpg")
    (photos / "linked").symlink_to(photos / "no")
    (photos / "é" / "around").symlink_to(photos)
    first, second = sorted((photos / "no").glob("*.jpg"))[:2]
    first.rename(Path(os.fsdecode(os.fsencode(photos / "no") + b"/\xe9.jpg")))
    source = ("-S", "data.source='my photos'")

    assert clone.stages_run("exp", "run", *source, "shards") == {"plan", "shards"}
    assert clone.manifest()["class_names"] == ["linked", "no", "yes", "é"]
    assert [rejected["path"] for rejected in clone.manifest()["rejected"]] == ["yes/gone.jpg", "é/around"]
    assert clone.stages_run("repro", "shards") == set()

    chosen = ("-S", 'data.classes=["yes","no"]')
    assert clone.stages_run("exp", "run", *chosen, "shards") == {"shards"}
    assert clone.manifest()["class_names"] == ["no", "yes"]
    time = second.stat().st_mtime_ns
    second.write_bytes(second.read_bytes()[:-1] + b"!")
    os.utime(second, ns=(time, time))
    assert clone.stages_run("repro", "shards") == {"shards"}
    second.unlink()  # a run in a folder of DVC's, where nothing but what git keeps is
    assert clone.stages_run("exp", "run", "--temp", "shards") == {"shards"}
