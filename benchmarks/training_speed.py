"""Steps per second of both training stages against a plain fp32 eager loop of the same models, in one run.

    python benchmarks/training_speed.py     # after `dvc repro`, whose shards and tokens it reads
    torchrun --standalone --nproc_per_node 2 benchmarks/training_speed.py     # ours on two processes

The plain loop is always one process of all cores. Sizes and batches are those of params.yaml. Both sides take turns,
and the ratio is of their median steps. Also what a batch of data costs beside a step, and the memory of weights, EMA
and optimizers. Writes reports/benchmarks/training_speed.json, or training_speed_processes.json of several processes.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from plain import PlainStage1, PlainStage2, torch_alone
from sitting import Sitting
from steps import take_step

from prologue.core.launch import is_main_process
from prologue.core.params import Params
from prologue.core.params_file import load_params
from prologue.core.precision import settle
from prologue.core.runtime import start_accelerator
from prologue.models.ar import ARConfig, ARModel
from prologue.models.tokenizer import Tokenizer
from prologue.training.ar import ARTask
from prologue.training.plan import plan_tokenizer
from prologue.training.tokenizer import TokenizerTask, tokenizer_config

WARMUP, ROUNDS, STEPS = 3, 8, 5
SHARDS, TOKENS = Path("data/shards"), Path("data/tokens")
Step = Callable[[int], object]


def main() -> None:
    params, accelerator = settle(load_params()), start_accelerator()
    torch.manual_seed(params.seed)
    with Sitting() as sitting:
        result = {"stage1": stage1(params, accelerator), "stage2": stage2(params, accelerator)}
    if is_main_process():
        how = {"processes": accelerator.num_processes, "threads_of_each": torch.get_num_threads()}
        name = "training_speed" if accelerator.num_processes == 1 else "training_speed_processes"
        sitting.write(name, how | {"precision": params.precision} | result)


def stage1(params: Params, accelerator: Accelerator) -> dict[str, Any]:
    plan = plan_tokenizer(params)
    assert plan.joint_ar is not None
    task = TokenizerTask(plan, SHARDS, Tokenizer(tokenizer_config(plan)), accelerator)
    tokenizer, average = (Tokenizer(tokenizer_config(plan)) for _ in range(2))
    config = ARConfig(vocabulary=tokenizer.vocabulary(len(task.images.classes)), transformer=plan.joint_ar.transformer)
    plain = PlainStage1(plan.stage1, plan.joint_ar, tokenizer, ARModel(config), average)
    batches = list(islice(task.batches(0), STEPS))
    whole = [torch.cat([images] * accelerator.num_processes) for images, _ in batches]  # as many as ours together
    return compare(own_step(task, batches), lambda number: plain.step(number, whole[number % STEPS]), accelerator) | {
        **data_cost(task.batches(0)),
        "state_mb": task.state.megabytes(),
    }


def stage2(params: Params, accelerator: Accelerator) -> dict[str, Any]:
    task = ARTask(params, TOKENS, accelerator)
    plain = PlainStage2(params.ar, ARModel(task.model.config), ARModel(task.model.config))
    batches = list(islice(task.batches(0), STEPS))
    whole = list(islice(task.train.training_batches(params.seed, params.ar.batch, 0, STEPS, 0, 1), STEPS))
    return compare(own_step(task, batches), lambda number: plain.step(*whole[number % STEPS]), accelerator) | {
        **data_cost(task.batches(0)),
        "state_mb": task.state.megabytes(),
    }


def own_step(task: Any, batches: list[Any]) -> Step:
    """A step of a task as the training loop takes it."""

    def step(number: int) -> None:
        measured = take_step(task, number, batches[number % STEPS])
        task.accelerator.reduce(torch.stack(measured), "mean").tolist()

    return step


def compare(own: Step, plain: Step, accelerator: Accelerator) -> dict[str, float]:
    """Seconds of each side's median step, taking turns, and how many times faster ours is."""
    seconds: dict[str, list[float]] = {"own": [], "plain": []}
    for turn in range(ROUNDS + 1):
        timed(own, seconds["own"], warmup=not turn)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            with all_cores(), torch_alone():
                timed(plain, seconds["plain"], warmup=not turn)
        accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return {}
    medians = {side: statistics.median(measured) for side, measured in seconds.items()}
    return {
        "step_seconds": round(medians["own"], 4),
        "plain_step_seconds": round(medians["plain"], 4),
        "times_faster": round(medians["plain"] / medians["own"], 2),
    }


def timed(step: Step, measured: list[float], warmup: bool) -> None:
    """Append the seconds of each of some steps, none of which is one of the R1 penalty, which few are."""
    for number in range(1, 1 + (WARMUP if warmup else STEPS)):
        began = time.perf_counter()
        step(number)
        if not warmup:
            measured.append(time.perf_counter() - began)


@contextmanager
def all_cores() -> Iterator[None]:
    """One thread on every core of the launch while the context lasts."""
    own, threads = os.sched_getaffinity(0), torch.get_num_threads()
    cores = os.sched_getaffinity(os.getppid()) if "RANK" in os.environ else own
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    yield
    os.sched_setaffinity(0, own)
    torch.set_num_threads(threads)


def data_cost(batches: Iterator[Any]) -> dict[str, Any]:
    """Seconds that a batch of data costs."""
    next(batches)
    began = time.perf_counter()
    count = sum(1 for _ in islice(batches, 4 * STEPS))
    return {"data_seconds": round((time.perf_counter() - began) / count, 5)}


if __name__ == "__main__":
    main()
