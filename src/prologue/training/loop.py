"""The one training loop: batches in step order, one task step each, curves, validation, checkpoints."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from accelerate import Accelerator
from dvclive.live import Live
from torch import Tensor

from prologue.errors import PrologueError
from prologue.params import ScheduleParams
from prologue.runtime import progress, seed_everything
from prologue.training.checkpoint import Checkpoints, TrainingState

Batch_contra = TypeVar("Batch_contra", contravariant=True)
Batch = TypeVar("Batch")


class Task(Protocol[Batch]):
    """One kind of training: what a step does, what validation measures, and all that it changes."""

    state: TrainingState

    def batches(self, start: int) -> Iterator[Batch]:
        """This process's batches of steps start, start + 1, ..."""

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Update the weights once; returns named scalar losses."""

    def validate(self) -> dict[str, float]:
        """Named measurements on validation images."""


class Curves:
    """Training curves as DVCLive writes them: one TSV per measurement under `folder`."""

    def __init__(self, folder: Path, active: bool) -> None:
        self.live = Live(str(folder), resume=True, report=None, save_dvc_exp=False, dvcyaml=None) if active else None

    def log(self, step: int, prefix: str, values: dict[str, float]) -> None:
        """Append one point per value at `step`."""
        if self.live:
            self.live.step = step
            for name, value in values.items():
                self.live.log_metric(f"{prefix}/{name}", value)


def train(
    task: Task[Batch], schedule: ScheduleParams, seed: int, checkpoints: Checkpoints, accelerator: Accelerator
) -> dict[str, float]:
    """Run a task from its newest checkpoint to the last step.

    Returns the last validation's measurements, and `images_per_second` of this run's training steps.

    Raises:
        PrologueError: a loss is not finite; the message names the step and the loss.
    """
    start = checkpoints.resume(task.state)
    curves = Curves(checkpoints.curves, accelerator.is_main_process)
    label = checkpoints.stage_folder.name
    recent: list[dict[str, float]] = []
    validation: dict[str, float] = {}
    seconds = 0.0
    steps = progress(range(start, schedule.steps), label, "step", total=schedule.steps, initial=start)
    for step, batch in zip(steps, task.batches(start), strict=False):
        began = time.perf_counter()
        seed_everything(seed, step, accelerator.process_index)
        recent.append(_finite(task.step(step, batch), step))
        seconds += time.perf_counter() - began
        done = step + 1
        if done % schedule.log_every == 0:
            curves.log(done, "train", _mean(recent))
            recent = []
        if done % schedule.validate_every == 0 or done == schedule.steps:
            validation = task.validate()
            curves.log(done, "val", validation)
        if accelerator.is_main_process and (done % schedule.checkpoint_every == 0 or done == schedule.steps):
            checkpoints.save(task.state, done)
    if not validation:  # resumed after the last step
        validation = task.validate()
    trained = (schedule.steps - start) * schedule.batch
    return validation | ({"images_per_second": round(trained / seconds, 1)} if trained else {})


def _finite(losses: dict[str, Tensor], step: int) -> dict[str, float]:
    """Losses as floats. Raises PrologueError naming those that are NaN or infinite."""
    values = torch.stack([loss.detach().float() for loss in losses.values()]).tolist()
    named = dict(zip(losses, values, strict=True))
    broken = [name for name, value in named.items() if not abs(value) < float("inf")]
    if broken:
        raise PrologueError(
            f"step {step + 1}: {', '.join(broken)} is not finite; the last good checkpoint is kept. "
            "Lower the learning rate or use precision: fp32, then run again"
        )
    return named


def _mean(points: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each loss over the points that have it."""
    names = {name: None for point in points for name in point}
    return {name: sum(p[name] for p in points if name in p) / sum(name in p for p in points) for name in names}
