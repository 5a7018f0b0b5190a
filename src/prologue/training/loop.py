"""The one training loop: batches in step order, one task step each, curves, validation, checkpoints."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from accelerate import Accelerator
from dvclive.live import Live
from PIL.Image import Image
from torch import Tensor

from prologue.core.launch import progress
from prologue.core.params import LoopParams
from prologue.core.runtime import seed_everything
from prologue.training.adoption import adopt
from prologue.training.checkpoint import Checkpoints, TrainingState
from prologue.training.health import GRADIENT_NORM, explain_failure, not_finite
from prologue.training.optimizers import gradient_norm
from prologue.training.schedule import CosineSchedule, Schedule
from prologue.training.stop import Stopped, StopRequest, stop_requests

Batch = TypeVar("Batch")


class Task(Protocol[Batch]):
    """One kind of training: what a step computes and changes, what validation measures, and all of its state."""

    state: TrainingState
    spent: dict[str, float]  # seconds of named parts of the steps so far, where they are known

    @property
    def schedule(self) -> Schedule | CosineSchedule:
        """How many steps there are."""

    def batches(self, start: int) -> Iterator[Batch]:
        """This process's batches of steps start, start + 1, ..."""

    def gradients(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Compute the gradients of a step; returns named scalar losses. No weight changes."""

    def update(self, step: int, norms: dict[str, Tensor]) -> None:
        """Move the weights along the gradients, whose norms are given by optimizer."""

    def measure(self, step: int) -> dict[str, float]:
        """Named measurements of the training batches since the last call."""

    def validate(self) -> dict[str, float]:
        """Named measurements on validation images."""


class Curves:
    """Training curves as DVCLive writes them: one TSV per measurement under `folder`, and pictures."""

    def __init__(self, folder: Path, active: bool) -> None:
        self.live = Live(str(folder), resume=True, report=None, save_dvc_exp=False, dvcyaml=None) if active else None

    def log(self, step: int, prefix: str, values: dict[str, float]) -> None:
        """Append one point per value at `step`."""
        if self.live:
            self.live.step = step
            for name, value in values.items():
                self.live.log_metric(f"{prefix}/{name}", value)

    def show(self, step: int, draw: Callable[[], Image]) -> None:
        """Keep a picture of `step`."""
        if self.live:
            self.live.log_image(f"step_{step:08d}.png", draw())


class Clock:
    """Seconds spent on named parts, which follow each other."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.last = time.perf_counter()

    def add(self, part: str) -> None:
        """What passed since the last call was spent on a part."""
        now = time.perf_counter()
        self.spent[part] = self.spent.get(part, 0.0) + now - self.last
        self.last = now


def train(
    task: Task[Batch],
    params: LoopParams,
    seed: int,
    checkpoints: Checkpoints,
    accelerator: Accelerator,
    draw: Callable[[], Image] | None = None,
) -> dict[str, Any]:
    """Run a task from its newest checkpoint to the last step; `draw` makes a picture of each validation.

    Returns:
        steps, images per second, memory of the training state, seconds spent on steps and their parts, on data,
        validation and checkpoints, work of another origin that was gone on from, and val, the measurements of the last
        validation.

    Raises:
        PrologueError: a loss or gradient is not finite; the message names the step, the term and the module.
        Stopped: Ctrl-C or SIGTERM; a checkpoint of the last step is saved.
    """
    steps = task.schedule.steps
    if accelerator.is_main_process:
        adopt(checkpoints, task.state, steps)
    accelerator.wait_for_everyone()  # the main process may also have waited for the work directory
    start = checkpoints.resume(task.state)
    curves, clock = Curves(checkpoints.curves, accelerator.is_main_process), Clock()
    recent: list[dict[str, float]] = []
    validation: dict[str, float] = {}
    numbers = progress(range(start, steps), checkpoints.stage, "step", total=steps, initial=start)
    with stop_requests() as request:
        for step, batch in zip(numbers, task.batches(start), strict=False):
            clock.add("data")
            losses, stop = _step(task, step, batch, seed, request, accelerator)
            clock.add("steps")
            recent.append(losses)
            done = step + 1
            if done % params.log_every == 0:
                curves.log(done, "train", _mean(recent) | task.measure(done))
                recent = []
            if done % params.validate_every == 0 or done == steps:
                validation = task.validate()
                curves.log(done, "val", validation)
                if draw is not None:
                    curves.show(done, draw)
            clock.add("validation")
            due = done % params.checkpoint_every == 0 or done == steps or stop
            if due and accelerator.is_main_process:
                checkpoints.save(task.state, done)
            clock.add("checkpoints")
            if stop and done < steps:
                raise Stopped(f"stopped at step {done} of {steps}, which is saved; run the same command to go on")
    metrics: dict[str, Any] = {"steps": steps}
    if steps > start:
        metrics["images_per_second"] = round((steps - start) * params.batch / clock.spent["steps"], 1)
        metrics["spent_seconds"] = {part: round(seconds, 1) for part, seconds in (clock.spent | task.spent).items()}
    metrics["state_mb"] = task.state.megabytes()
    if checkpoints.adopted:
        metrics["resumed_from"] = checkpoints.adopted
    return metrics | {"val": validation or task.validate()}  # it validates here if resumed after the last step


def _step(
    task: Task[Batch], step: int, batch: Batch, seed: int, request: StopRequest, accelerator: Accelerator
) -> tuple[dict[str, float], bool]:
    """One step: its losses and gradient norms, means over all processes, and whether any process was asked to stop."""
    seed_everything(seed, step)
    losses = task.gradients(step, batch)
    norms = {name: gradient_norm(optimizer) for name, optimizer in task.state.optimizers.items()}
    named = losses | {f"{GRADIENT_NORM}{name}": norm for name, norm in norms.items()}
    stop = torch.tensor(float(request.made), device=accelerator.device)
    means = accelerator.reduce(torch.stack([*(value.float() for value in named.values()), stop]), "mean")
    assert isinstance(means, Tensor)
    *values, stopping = means.tolist()
    measured = dict(zip(named, values, strict=True))
    broken = not_finite(measured)
    if broken:
        raise explain_failure(broken, step, task.state.modules, lambda: task.gradients(step, batch))
    task.update(step, norms)
    return measured, stopping > 0


def _mean(points: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each loss over the points that have it."""
    names = {name: None for point in points for name in point}
    return {name: sum(p[name] for p in points if name in p) / sum(name in p for p in points) for name in names}
