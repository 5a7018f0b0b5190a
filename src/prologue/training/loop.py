"""The one training loop: batches in step order, one task step each, curves, validation, checkpoints."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from accelerate import Accelerator
from dvclive.live import Live
from PIL.Image import Image
from torch import Tensor
from torch.optim import AdamW

from prologue.core.launch import progress
from prologue.core.params import LoopParams
from prologue.core.runtime import seed_everything
from prologue.core.sharing import require_same
from prologue.training.adoption import adopt
from prologue.training.checkpoint import Checkpoints, TrainingState
from prologue.training.health import GRADIENT_NORM, explain_failure
from prologue.training.losses import Losses, NotFinite
from prologue.training.optimizers import gradient_norm
from prologue.training.schedule import CosineSchedule, Schedule
from prologue.training.stop import Stopped, StopRequest, stop_requests

Batch = TypeVar("Batch")
STOP = "stop"  # beside the losses of a step: above 0 where a process was asked to stop


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

    def update(self, step: int, norms: dict[str, Tensor], broken: Tensor) -> None:
        """Move the weights along the gradients, whose norms are given; not where the scalar `broken` is 1."""

    def settle(self) -> None:
        """Bring together in the state what the processes have counted apart; all call it before it is saved."""

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
        steps, memory of the training state, and val, the measurements of the last validation; of this session images
        per second and seconds spent on steps and their parts, on data, validation and checkpoints; seconds of earlier
        sessions and work of another origin that were gone on from.

    Raises:
        PrologueError: a loss or gradient is not finite; the message names the step, the term and the module.
        Stopped: Ctrl-C or SIGTERM; a checkpoint of the last step is saved.
    """
    steps = task.schedule.steps
    if accelerator.is_main_process:
        adopt(checkpoints, task.state, steps)
    accelerator.wait_for_everyone()  # the main process may also have waited for the work directory
    start = checkpoints.resume(task.state)
    require_same("the step that they go on from", start, accelerator)
    curves, clock = Curves(checkpoints.curves, accelerator.is_main_process), Clock()
    losses, recent = Losses(accelerator.device), checkpoints.recent
    often = 1 if _reads_at_once(task, accelerator.device) else params.log_every
    validation: dict[str, float] = {}
    numbers = progress(range(start, steps), checkpoints.stage, "step", total=steps, initial=start)
    with stop_requests() as request:
        for step, batch in zip(numbers, task.batches(start), strict=False):
            clock.add("data")
            norms = _compute(task, step, batch, seed, request, losses, accelerator)
            done = step + 1
            shown = done % params.log_every == 0
            validated = done % params.validate_every == 0 or done == steps
            saved = done % params.checkpoint_every == 0 or done == steps
            stop = False
            if done % often == 0 or shown or validated or saved:
                read = _read(task, losses, step, batch, seed)
                stop = max(own.pop(STOP) for own in read) > 0
                recent += read
            task.update(step, norms, losses.broken)
            clock.add("steps")
            if shown:
                curves.log(done, "train", _mean(recent) | task.measure(done))
                recent.clear()
            if validated:
                validation = task.validate()
                curves.log(done, "val", validation)
                if draw is not None:
                    curves.show(done, draw)
            clock.add("validation")
            if saved or stop:
                task.settle()
                if accelerator.is_main_process:
                    checkpoints.save(task.state, done)
            clock.add("checkpoints")
            if stop and done < steps:
                accelerator.wait_for_everyone()  # Slurm ends a job with its first process, and the main one saves
                raise Stopped(f"stopped at step {done} of {steps}, which is saved; run the same command to go on")
    earlier = round(max(0.0, checkpoints.earlier - checkpoints.waited), 1)
    return {
        "steps": steps,
        **(_speed((steps - start) * params.batch, clock.spent, task.spent) if steps > start else {}),
        "state_mb": task.state.megabytes(),
        **({"earlier_seconds": earlier} if earlier else {}),
        **({"resumed_from": checkpoints.adopted} if checkpoints.adopted else {}),
        "val": validation or task.validate(),  # it validates here if resumed after the last step
    }


def _speed(images: int, spent: dict[str, float], of_parts: dict[str, float]) -> dict[str, Any]:
    """Images per second of steps, and seconds of all that the loop and its task spent time on."""
    return {
        "images_per_second": round(images / spent["steps"], 1),
        "spent_seconds": {part: round(seconds, 1) for part, seconds in (spent | of_parts).items()},
    }


def _reads_at_once(task: Task[Batch], device: torch.device) -> bool:
    """Whether losses are read at every step: where nothing waits for it, or an optimizer does not heed `broken`.

    AdamW heeds it on CUDA; on Apple's GPUs it takes and ignores it.
    """
    heeding = all(isinstance(optimizer, AdamW) for optimizer in task.state.optimizers.values())
    return device.type != "cuda" or not heeding


def _compute(
    task: Task[Batch],
    step: int,
    batch: Batch,
    seed: int,
    request: StopRequest,
    losses: Losses,
    accelerator: Accelerator,
) -> dict[str, Tensor]:
    """Gradients of a step; notes its losses, means over all processes, and whether any was asked to stop.

    Returns the norms of the gradients by optimizer.
    """
    seed_everything(seed, step)
    named = task.gradients(step, batch)
    norms = {name: gradient_norm(optimizer) for name, optimizer in task.state.optimizers.items()}
    named = named | {f"{GRADIENT_NORM}{name}": norm for name, norm in norms.items()}
    stop = torch.full((), float(request.made), device=accelerator.device)
    means = accelerator.reduce(torch.stack([*(value.float() for value in named.values()), stop]), "mean")
    assert isinstance(means, Tensor)
    losses.add(step, dict(zip([*named, STOP], means, strict=True)))
    return norms


def _read(task: Task[Batch], losses: Losses, step: int, batch: Batch, seed: int) -> list[dict[str, float]]:
    """The losses since the last reading. Raises PrologueError where a step's are not finite, and says where that began.

    That step is computed once more: no weight has moved since.
    """
    try:
        return losses.read()
    except NotFinite as failed:
        own = batch if failed.step == step else next(task.batches(failed.step))
        seed_everything(seed, failed.step)
        compute = partial(task.gradients, failed.step, own)
        raise explain_failure(failed.names, failed.step, task.state.modules, compute) from None


def _mean(points: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each loss over the points that have it."""
    names = {name: None for point in points for name in point}
    return {name: sum(p[name] for p in points if name in p) / sum(name in p for p in points) for name in names}
