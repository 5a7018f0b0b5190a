"""A study as its runner leaves it, and a small DVC project with two experiments."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tiny import ROOT

STUDY: dict[str, Any] = {
    "name": "table1",
    "title": "Prologue against the 2D and 1D baselines",
    "question": "Does a prologue that only the AR loss trains make images easier to generate, "
    "at no cost in reconstruction?",
    "scale": "smoke",
    "commit": "c6c9273d0e5",
    "created": "2026-11-24T12:00:00",
    "columns": [
        {"key": "gfd", "label": "gFD (lite2), guided", "better": "lower", "paper": "gFID"},
        {"key": "gfd_plain", "label": "gFD (lite2), no guidance", "better": "lower", "paper": "gFID, no guidance"},
        {"key": "psnr", "label": "PSNR, dB", "better": "higher"},
        {"key": "parameters", "label": "AR parameters"},
    ],
    "rows": [
        {
            "label": "2D",
            "overrides": {"prologue.mode": "none"},
            "runs": [{"status": "done", "commit": "4f1c2aa90c1d", "intervals": {"gfd": [330.1, 353.5]}}],
            "params": {"seed": 0, "prologue.mode": "none"},
            "metrics": {"gfd": 341.81, "gfd_plain": 1352.6, "psnr": 22.41, "parameters": 2058368},
            "paper": {"gfd": 5.02, "gfd_plain": 15.1},
        },
        {
            "label": "1D",
            "overrides": {"prologue.mode": "none", "tokenizer.layout": "1d"},
            "runs": [{"status": "done", "commit": "0b7e11d2a3f4", "intervals": {"gfd": [355.2, 368.9]}}],
            "params": {"seed": 0, "prologue.mode": "none"},
            "metrics": {"gfd": 362.07, "gfd_plain": 390.22, "psnr": 21.02, "parameters": 2058368},
            "paper": {"gfd": 4.63, "gfd_plain": 13.7},
        },
        {
            "label": "Prologue",
            "runs": [{"status": "done", "commit": "9a90be51c0de", "intervals": {"gfd": [312.0, 335.0]}}],
            "params": {"seed": 0, "prologue.mode": "joint"},
            "metrics": {"gfd": 323.48, "gfd_plain": 334.62, "psnr": 22.24, "parameters": 2083200},
            "paper": {"gfd": 4.11, "gfd_plain": 10.75},
        },
        {
            "label": "Prologue-Post",
            "overrides": {"prologue.mode": "post"},
            "runs": [
                {"status": "failed", "reason": "stage attach ended with status 1: the loss is not finite at step 12"}
            ],
            "paper": {"gfd": 4.7},
        },
        {"label": "Prologue-OneStage", "overrides": {"prologue.mode": "onestage"}, "runs": [{"status": "not run"}]},
    ],
    "figures": [
        {
            "file": "curve.svg",
            "png": "curve.png",
            "title": "Distance of every system",
            "caption": "Guided samples lie nearer to real images with a prologue. One seed a point.",
            "alt": "Points: 2D 341.8, 1D 362.1, Prologue 323.5",
        }
    ],
}

MAKE = f"""
import json, pathlib, shutil, zipfile
import numpy as np, yaml
from PIL import Image, ImageFilter
guidance = yaml.safe_load(open("params.yaml"))["sampling"]["cfg"]["visual"]["guidance"]
archive = zipfile.ZipFile("{ROOT / "data" / "fashion_mnist.zip"}")
names = sorted({{name.split("/")[1] for name in archive.namelist() if name.startswith("val/")}})
files = [[name for name in archive.namelist() if name.startswith(f"val/{{label}}/")] for label in names]
for folder in ("data/samples", "data/tokens", "reports/metrics"):
    pathlib.Path(folder).mkdir(parents=True)
for run, blur in ("cfg", 3 - guidance), ("no_cfg", 4 - guidance):
    images = []
    for number in range(20):
        with archive.open(files[number % 10][number // 10]) as file:
            image = Image.open(file).convert("RGB").filter(ImageFilter.GaussianBlur(blur))
            images.append(np.asarray(image))
    np.savez(f"data/samples/{{run}}.npz", arr_0=np.stack(images), arr_1=np.arange(20) % 10)
json.dump({{"classes": names}}, open("data/tokens/manifest.json", "w"))
for stage in pathlib.Path("{ROOT / "reports" / "metrics"}").glob("*.json"):
    values = json.loads(stage.read_text())
    if stage.stem == "evaluate_generation":
        distance = values["cfg"]["gfd_lite2"] = 323.5 + 30 * (3 - guidance)
        values["cfg"]["interval"]["gfd_lite2"] = {{"low": distance - 5, "high": distance + 5}}
        distance = values["no_cfg"]["gfd_lite2"] = 400 + 3 * guidance
        values["no_cfg"]["interval"]["gfd_lite2"] = {{"low": distance - 5, "high": distance + 5}}
        values["cfg"]["samples_sha256"] = str(guidance)
        values["floor"]["gfd_lite2"] = 40 + 6.5 * (3 - guidance)
    json.dump(values, open(f"reports/metrics/{{stage.name}}", "w"))
"""
PIPELINE = """
stages:
  samples:
    cmd: python make.py
    params: [sampling]
    deps: [make.py]
    outs: [data/samples, data/tokens]
    metrics:
    - reports/metrics: {cache: false}
"""


def write_study(folder: Path, **changes: Any) -> None:
    """Write study.json and the pictures of its figures to a folder."""
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(STUDY | changes))
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(np.arange(3), [341.81, 362.07, 323.48], "o")
    axes.set_xticks(range(3), ["2D", "1D", "Prologue"])
    axes.set_ylabel("gFD (lite2), guided")
    for suffix in ("svg", "png"):
        figure.savefig(folder / f"curve.{suffix}")


def make_project(folder: Path) -> None:
    """A git and DVC project: one commit with guidance 2, an experiment 'sharp' with 3, whose results are in place."""
    folder.mkdir()
    (folder / "make.py").write_text(MAKE)
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    for command in ("git init -q -b main", "git config user.email a@b.c", "git config user.name a", "dvc init -q"):
        run(folder, *command.split())
    run(folder, "dvc", "repro", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "start")
    run(folder, "dvc", "exp", "run", "-q", "-n", "sharp", "-S", "sampling.cfg.visual.guidance=3")


def run(folder: Path, *command: str) -> None:
    """Run a command of the environment in a folder."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    subprocess.run(command, cwd=folder, env={"PATH": path, "HOME": str(folder.parent)}, check=True)
