"""Steps per second of both training stages against a plain fp32 eager loop of the same models, in one run.

    python benchmarks/training_speed.py     # after `dvc repro`, whose shards and tokens it reads

Sizes and batches are those of params.yaml. Both sides take turns, and the ratio is of their fastest steps. Also what a
batch of data costs beside a step, and the memory of weights, EMA and optimizers. Writes
reports/benchmarks/training_speed.json or, with ACCELERATE_DYNAMO_BACKEND=inductor, training_speed_compiled.json.
"""

import os
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from plain import PlainStage1, PlainStage2, default_attention

from prologue.core.files import write_json
from prologue.core.params import Params
from prologue.core.params_file import load_params
from prologue.core.runtime import start_accelerator
from prologue.models.ar import ARConfig, ARModel
from prologue.models.tokenizer import Tokenizer
from prologue.training.ar import ARTask
from prologue.training.optimizers import gradient_norm
from prologue.training.plan import plan_tokenizer
from prologue.training.tokenizer import TokenizerTask, tokenizer_config

WARMUP, ROUNDS, STEPS = 3, 8, 5
SHARDS, TOKENS, ATTACHED = Path("data/shards"), Path("data/tokens"), Path("models/attached")
OUTPUT = Path("reports/benchmarks")
Step = Callable[[int], object]


def main() -> None:
    params = load_params()
    torch.manual_seed(params.seed)
    result = {"stage1": stage1(params), "stage2": stage2(params), "threads": torch.get_num_threads()}
    compiled = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no"
    write_json(OUTPUT / f"training_speed{'_compiled' if compiled else ''}.json", result)
    for stage, values in result.items():
        print(stage, values)


def stage1(params: Params) -> dict[str, Any]:
    plan = plan_tokenizer(params)
    assert plan.joint_ar is not None
    task = TokenizerTask(plan, SHARDS, Tokenizer(tokenizer_config(plan)), start_accelerator())
    tokenizer, average = (Tokenizer(tokenizer_config(plan)) for _ in range(2))
    config = ARConfig(vocabulary=tokenizer.vocabulary(len(task.images.classes)), transformer=plan.joint_ar.transformer)
    plain = PlainStage1(plan.stage1, plan.joint_ar, tokenizer, ARModel(config), average)
    batches = list(islice(task.batches(0), STEPS))

    def plain_step(number: int) -> None:
        with default_attention():
            plain.step(number, batches[number % STEPS][0])

    return (
        compare(own_step(task, batches), plain_step) | data_cost(task.batches(0)) | {"state_mb": task.state.megabytes()}
    )


def stage2(params: Params) -> dict[str, Any]:
    task = ARTask(params, TOKENS, start_accelerator())
    plain = PlainStage2(params.ar, ARModel(task.model.config), ARModel(task.model.config))
    batches = list(islice(task.batches(0), STEPS))

    def plain_step(number: int) -> None:
        with default_attention():
            plain.step(*batches[number % STEPS])

    return (
        compare(own_step(task, batches), plain_step) | data_cost(task.batches(0)) | {"state_mb": task.state.megabytes()}
    )


def own_step(task: Any, batches: list[Any]) -> Step:
    """A step of a task as the training loop takes it."""

    def step(number: int) -> None:
        losses = task.gradients(number, batches[number % STEPS])
        norms = {name: gradient_norm(optimizer) for name, optimizer in task.state.optimizers.items()}
        torch.stack([*losses.values(), *norms.values()]).tolist()
        task.update(number, norms)

    return step


def compare(own: Step, plain: Step) -> dict[str, float]:
    """Seconds of each side's fastest round per step, taking turns, and how many times faster ours is."""
    seconds: dict[Step, list[float]] = {own: [], plain: []}
    for step in (own, plain):
        for number in range(WARMUP):
            step(number)
    for _ in range(ROUNDS):
        for step, measured in seconds.items():
            began = time.perf_counter()
            for number in range(1, STEPS + 1):  # none is a step of the R1 penalty, which few are
                step(number)
            measured.append((time.perf_counter() - began) / STEPS)
    fastest = {name: min(seconds[step]) for name, step in (("own", own), ("plain", plain))}
    return {
        "step_seconds": round(fastest["own"], 4),
        "plain_step_seconds": round(fastest["plain"], 4),
        "times_faster": round(fastest["plain"] / fastest["own"], 2),
    }


def data_cost(batches: Iterator[Any]) -> dict[str, Any]:
    """Seconds that a batch of data costs."""
    next(batches)
    began = time.perf_counter()
    count = sum(1 for _ in islice(batches, 4 * STEPS))
    return {"data_seconds": round((time.perf_counter() - began) / count, 5)}


if __name__ == "__main__":
    main()
