"""Prologue B-B at 256 px on this machine: one step of each training stage at batch 2, and two samples with guidance.

    python benchmarks/full_size.py

The images are the embedded dataset's, enlarged. The perceptual network is lite0 (VGG16's weights are a download) and
the precision fp32. Writes reports/benchmarks/full_size.json.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from sitting import Sitting
from steps import take_step

from prologue.core.machine import peak_memory_mb
from prologue.core.params import Params
from prologue.core.runtime import start_accelerator
from prologue.core.variants import apply_overrides, load_variants
from prologue.data.shards import write_shards
from prologue.models.saved import save_model
from prologue.models.tokenizer import Tokenizer
from prologue.sampling import Guidance, generate
from prologue.tokens.encoding import write_tokens
from prologue.training.ar import ARTask
from prologue.training.plan import plan_tokenizer
from prologue.training.tokenizer import TokenizerTask, tokenizer_config

BATCH = 2
OVERRIDES = {
    "precision": "fp32",
    "data.train_limit": 10,
    "data.val_limit": 10,
    "stage1.batch": BATCH,
    "stage1.perceptual.lite0": 1.0,
    "stage1.perceptual.vgg16": 0,
    "tokens.crops": "center",
    "ar.batch": BATCH,
}


def main() -> None:
    params = apply_overrides(load_variants(["imagenet_b_b"]) | OVERRIDES)
    accelerator = start_accelerator()
    with tempfile.TemporaryDirectory() as folder, Sitting() as sitting:
        result = measure(params, Path(folder), accelerator)
    sitting.write("full_size", {"batch": BATCH, "threads": torch.get_num_threads(), **result})


def measure(params: Params, folder: Path, accelerator: Accelerator) -> dict[str, object]:
    """Seconds of each stage's second step, which allocates nothing more, and of sampling; peak memory after each."""
    shards, tokens, model = folder / "shards", folder / "tokens", folder / "tokenizer"
    write_shards(params.data, params.seed, shards)
    plan = plan_tokenizer(params)
    stage1 = TokenizerTask(plan, shards, Tokenizer(tokenizer_config(plan)), accelerator)
    result = timed("stage1_step", *two_steps(stage1))
    save_model(model, stage1.model)
    write_tokens(params, model, shards, tokens)

    stage2 = ARTask(params, tokens, accelerator)
    result |= timed("stage2_step", *two_steps(stage2))
    own = params.sampling.cfg
    guidance = Guidance(own.prologue.guidance, own.visual.guidance, own.visual.power)

    def sample() -> None:
        stage1.model.decode(generate(stage2.model.eval(), torch.arange(BATCH), guidance).visual)

    return result | timed("sample_2_images", sample)


def two_steps(task: TokenizerTask | ARTask) -> tuple[Callable[[], object], Callable[[], object]]:
    """The first two steps of a training stage, with their batches at hand."""
    batches: Iterator[Any] = task.batches(0)

    first, second = next(batches), next(batches)
    return lambda: take_step(task, 0, first), lambda: take_step(task, 1, second)


def timed(name: str, *works: Callable[[], object]) -> dict[str, object]:
    """Wall time of the last of several calls, and the peak memory of the process after it."""
    for work in works:
        began = time.perf_counter()
        work()
        seconds = time.perf_counter() - began
    peak = peak_memory_mb()
    return {f"{name}_seconds": round(seconds, 2), f"{name}_peak_memory_mb": peak}


if __name__ == "__main__":
    main()
