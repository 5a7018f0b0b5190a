"""Generation measured over the values of one sampling setting, such as the guidance scale (Fig. A1)."""

import copy
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from prologue.core.files import read_json, remove, replacing
from prologue.core.params import GuidedRunParams, Params
from prologue.core.precision import settle
from prologue.core.runtime import start_accelerator
from prologue.core.systems import sweep_run
from prologue.core.work import Origin, open_work, origin_of, work_root
from prologue.evaluation.features import Features, extract
from prologue.evaluation.generation import compare_with_reference
from prologue.evaluation.image_sets import ArrayImages
from prologue.evaluation.reference import load_reference
from prologue.figures.sweep import draw_sweep
from prologue.frozen.extractor import Extractor
from prologue.measures.registry import metric_name
from prologue.models.saved import load_ar, load_tokenizer
from prologue.models.tokenizer import Tokenizer
from prologue.sampling.generation import TokenSampler
from prologue.sampling.images import choices_of, guidance_of, sample_images, token_samplers
from prologue.sampling.samples import balanced_labels


def sweep_sampling(
    params: Params, ar_folder: Path, tokenizer_folder: Path, tokens: Path, reference_folder: Path, figures: Path
) -> dict[str, Any]:
    """Sample with `sampling.cfg` at every value of `sweep.axis`; write sweep.csv, .svg and .png to `figures`.

    Image i has the same seed at every value. The features of a value that was measured before are found again, so
    that further values cost only their own.

    Returns:
        The metrics of `compare_with_reference` by value, the best value by the distance, and the axis.

    Raises:
        PrologueError: as `evaluate_generation`.
    """
    accelerator, params = start_accelerator(), settle(params)
    name, sweep = params.evaluation.extractor, params.sweep
    reference = load_reference(reference_folder, name)
    ar, tokenizer = load_ar(ar_folder, accelerator.device), load_tokenizer(tokenizer_folder, accelerator.device)
    inputs = [*sorted(ar_folder.glob("*.*")), *sorted(tokenizer_folder.glob("*.*"))]
    sampler = token_samplers(ar, params.sampling)["cfg"]
    labels = balanced_labels(read_json(tokens / "manifest.json")["classes"], params.sampling.classes, sweep.images)
    extractor = Extractor(name, accelerator.device)
    points = {}
    for value in sweep.values:
        run = sweep_run(params, value)
        settings = {"run": run.model_dump(), "seed": params.seed, "labels": labels.tolist(), **extractor.protocol}
        origin = origin_of(settings | {"precision": params.sampling.precision}, inputs, __file__)
        features = _features(origin, with_run(sampler, run), tokenizer, labels, params, extractor, accelerator)
        points[f"{value:g}"] = compare_with_reference(features, reference, name, params.evaluation.neighbours, "gfd")
    metrics: dict[str, Any] = {
        "axis": sweep.axis,
        "precision": params.sampling.precision,
        "points": points,
        **extractor.protocol,
    }
    distance = metric_name("gfd", name)
    if points:
        metrics["best"] = min(points, key=lambda value: points[value][distance])
    if accelerator.is_main_process:
        with replacing(figures) as pictures:
            pictures.mkdir()
            if points:
                table = pd.DataFrame([{sweep.axis: float(value), **point} for value, point in points.items()])
                table.to_csv(pictures / "sweep.csv", index=False)
                draw_sweep(table.sort_values(sweep.axis), distance, metric_name("is", name), pictures / "sweep.png")
    accelerator.wait_for_everyone()
    return metrics


def with_run(sampler: TokenSampler, run: GuidedRunParams) -> TokenSampler:
    """The same prepared model with other settings."""
    changed = copy.copy(sampler)
    changed.guidance, changed.choices = guidance_of(run), choices_of(run)
    return changed


def _features(
    origin: Origin,
    sampler: TokenSampler,
    tokenizer: Tokenizer,
    labels: Any,
    params: Params,
    extractor: Extractor,
    accelerator: Accelerator,
) -> Features:
    """Features of one value's samples, from the work directory where they were measured before."""
    folder = work_root() / "sweep" / origin.key
    path = folder / "features.safetensors"
    if not path.is_file():
        if accelerator.is_main_process:
            open_work(folder, origin)
        accelerator.wait_for_everyone()
        images = sample_images(sampler, tokenizer, labels, params.seed, folder / "images.npy", accelerator)
        features = extract(extractor, ArrayImages(images), params.evaluation.batch, accelerator)
        if accelerator.is_main_process:
            with replacing(path) as temporary:
                save_file({**features._asdict(), "coloured": torch.tensor(features.coloured)}, temporary)
            for leftover in folder.glob("*.npy"):
                remove(leftover)
        accelerator.wait_for_everyone()
        return features
    tensors = load_file(path)
    return Features(tensors["pool"], tensors["logits"], bool(tensors["coloured"]))
