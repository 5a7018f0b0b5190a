"""Generation measured over values of sampling settings, such as the guidance scale (Fig. A1), and the best of them.

All systems are tuned by the same tries: on images of other seeds than the samples', against training images.
"""

import copy
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from prologue.core.conventions import SAMPLING_RUNS
from prologue.core.files import read_json, remove, replacing, write_json
from prologue.core.params import GuidedRunParams, Params, PlainRunParams
from prologue.core.precision import settle
from prologue.core.runtime import start_accelerator
from prologue.core.systems import trains_stage2, with_setting
from prologue.core.work import claim, open_work, origin_of, release, work_root
from prologue.evaluation.features import extract
from prologue.evaluation.generation import distance_to, score
from prologue.evaluation.image_sets import ArrayImages
from prologue.evaluation.reference import TRAIN, load_reference
from prologue.figures.sweep import draw_sweep
from prologue.frozen.extractor import Extractor
from prologue.measures.registry import metric_name
from prologue.models.saved import load_ar, load_tokenizer
from prologue.sampling.adopted import ADOPTED, Adopted
from prologue.sampling.generation import TokenSampler
from prologue.sampling.images import choices_of, guidance_of, sample_images, token_samplers
from prologue.sampling.samples import labels_like
from prologue.tokens.cache import TokenCache

TUNING = 1  # second part of the seeds of these images: those of the samples have two parts
TEMPERATURE = "visual.temperature"

Run = GuidedRunParams | PlainRunParams
Points = dict[str, dict[str, Any]]  # metrics by value


def sweep_sampling(
    params: Params,
    ar_folder: Path,
    tokenizer_folder: Path,
    tokens: Path,
    reference_folder: Path,
    output: Path,
    figures: Path,
) -> dict[str, Any]:
    """Sample with `sampling.cfg` at every value of `sweep.axis`, then both runs at every of `sweep.temperatures`.

    Writes OUTPUT/adopted.json, what the samples take, and sweep.csv, .svg and .png of the axis to `figures`. Image i
    has the same seed in every try. What a try has measured is kept in the work directory, so that further values cost
    only their own.

    Returns:
        The Frechet distance and the inception score by value, the best value by the distance, and the axis; the same
        of temperatures for both runs; what was adopted.

    Raises:
        PrologueError: as `evaluate_generation`.
    """
    tries = _Tries(params, ar_folder, tokenizer_folder, tokens, reference_folder)
    sweep, sampling = params.sweep, params.sampling
    points = {f"{value:g}": tries.measure(with_setting(sampling.cfg, sweep.axis, value)) for value in sweep.values}
    adopted: Adopted = {run: {} for run in SAMPLING_RUNS}
    runs: dict[str, Run] = {"cfg": sampling.cfg, "no_cfg": sampling.no_cfg}
    metrics: dict[str, Any] = {"axis": sweep.axis, "points": points}
    if points:
        metrics["best"] = tries.best(sweep.axis, points)
        adopted["cfg"][sweep.axis] = float(metrics["best"])
        runs["cfg"] = with_setting(sampling.cfg, sweep.axis, float(metrics["best"]))
    for name, run in runs.items():
        warm = {f"{value:g}": tries.measure(with_setting(run, TEMPERATURE, value)) for value in sweep.temperatures}
        if warm:
            metrics.setdefault("temperatures", {})[name] = warm
            adopted[name][TEMPERATURE] = float(tries.best(f"{name}.{TEMPERATURE}", warm))
    if not sweep.adopt:
        adopted = {}
    if tries.accelerator.is_main_process:
        with replacing(output) as folder:
            folder.mkdir()
            write_json(folder / ADOPTED, adopted)
        with replacing(figures) as pictures:
            pictures.mkdir()
            if points:
                table = pd.DataFrame([{sweep.axis: float(value), **point} for value, point in points.items()])
                table.to_csv(pictures / "sweep.csv", index=False)
                draw_sweep(table.sort_values(sweep.axis), *tries.shown, pictures / "sweep.png")
    tries.accelerator.wait_for_everyone()
    return {**metrics, "adopted": adopted, **tries.protocol}


class _Tries:
    """Metrics of samples of one AR model at whatever settings."""

    def __init__(
        self, params: Params, ar_folder: Path, tokenizer_folder: Path, tokens: Path, reference_folder: Path
    ) -> None:
        self.accelerator, self.params = start_accelerator(), settle(params)
        name, device = params.evaluation.extractor, self.accelerator.device
        self.reference = load_reference(reference_folder / TRAIN, name)
        self.tokenizer = load_tokenizer(tokenizer_folder, device)
        folders = (ar_folder, tokenizer_folder, reference_folder / TRAIN)
        self.inputs = [path for folder in folders for path in sorted(folder.glob("*.*"))]
        self.samplers = token_samplers(load_ar(ar_folder, device), self.params.sampling)
        cache = TokenCache(tokens, "train" if trains_stage2(params) else "val")
        names = cache.manifest["classes"]
        self.labels = labels_like(cache.labels, names, params.sampling.classes, params.sweep.images)
        self.extractor = Extractor(name, device)
        self.shown = metric_name("gfd", name), metric_name("is", name)
        self.protocol = {
            "precision": self.params.sampling.precision,
            "reference_split": self.reference.protocol["split"],
            **self.extractor.protocol,
        }

    def best(self, setting: str, points: Points) -> str:
        """The value of a setting with the smallest distance; one at an end of those that were tried is warned about."""
        best = min(points, key=lambda value: float(points[value][self.shown[0]]))
        ends = min(points, key=float), max(points, key=float)
        if len(points) > 1 and best in ends and self.accelerator.is_main_process:
            said = f"{setting} is best at {best}, an end of what was tried; beyond may be better"
            print(f"warning: {said}", file=sys.stderr)
        return best

    def measure(self, run: Run) -> dict[str, Any]:
        """Metrics of images sampled at the settings of a run; of the work directory, if they were measured before."""
        settings = {"run": run.model_dump(), "seed": self.params.seed, "labels": self.labels.tolist()}
        origin, accelerator = origin_of(settings | self.protocol, self.inputs, __file__), self.accelerator
        folder = work_root() / "sweep" / origin.key
        if accelerator.is_main_process:
            claim(folder)  # rows of a study may share the model
            open_work(folder, origin)
        accelerator.wait_for_everyone()
        path = folder / "metrics.json"
        metrics: dict[str, Any] = read_json(path) if path.is_file() else self._measured(run, path)
        if accelerator.is_main_process:
            release(folder)
        return metrics

    def _measured(self, run: Run, path: Path) -> dict[str, Any]:
        """Metrics of a run's samples, which are drawn beside the file `path` that gets them."""
        accelerator, name = self.accelerator, self.extractor.name
        sampler = with_run(self.samplers["cfg" if isinstance(run, GuidedRunParams) else "no_cfg"], run)
        drawn = path.with_name("images.npy")
        images, _ = sample_images(sampler, self.tokenizer, self.labels, (self.params.seed, TUNING), drawn, accelerator)
        features = extract(self.extractor, ArrayImages(images), self.params.evaluation.batch, accelerator)
        metrics = {metric_name("gfd", name): distance_to(self.reference, features), **score(features, name)}
        if accelerator.is_main_process:
            write_json(path, metrics)
            for leftover in path.parent.glob("*.npy"):
                remove(leftover)
        accelerator.wait_for_everyone()
        return metrics


def with_run(sampler: TokenSampler, run: Run) -> TokenSampler:
    """The same prepared model with other settings."""
    changed = copy.copy(sampler)
    changed.guidance = guidance_of(run) if isinstance(run, GuidedRunParams) else None
    changed.choices = choices_of(run)
    return changed
