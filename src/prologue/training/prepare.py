"""A model as this launch trains it: wrapped by Accelerate, in micro-batches, with recomputed activations.

All of this is the machine's business: it changes speed and memory, not results beyond the order of float sums. But a
discriminator normalises over the micro-batches of all processes, so that with one their size is heard in Stage 1.
"""

from collections.abc import Iterator
from contextlib import ExitStack

from accelerate import Accelerator
from accelerate.utils import compile_regions
from torch import nn

from prologue.core.errors import PrologueError
from prologue.core.launch import count_from, switch_from
from prologue.models.transformer import Transformer


def prepare(model: nn.Module, accelerator: Accelerator, compiled: bool = False) -> nn.Module:
    """The model as Accelerate runs it on this launch: on several processes, compiled where it was configured to be.

    `compiled`: its repeated blocks are, though the launch is not configured so.

    With `PROLOGUE_RECOMPUTE=1` blocks forget their activations and compute them again backward: less memory, a third
    more work.
    """
    for module in model.modules():
        if isinstance(module, Transformer):
            module.recompute = switch_from("PROLOGUE_RECOMPUTE", default=False)
    prepared: nn.Module = accelerator.prepare(model)
    return compile_regions(prepared, dynamic=False) if compiled else prepared


def micro_batches(size: int, models: list[nn.Module], accelerator: Accelerator) -> Iterator[slice]:
    """Slices of this process's `size` samples of a step, of `PROLOGUE_MICRO_BATCH` samples each (default: all).

    Gradients add up over the slices; those of the wrapped `models` are exchanged with other processes in the last one.
    One that is larger than the samples, as it may be of a stage with more of them, is all.

    Raises:
        PrologueError: the micro-batch does not divide the samples.
    """
    micro = min(count_from("PROLOGUE_MICRO_BATCH", size), size)
    if size % micro:
        raise PrologueError(f"PROLOGUE_MICRO_BATCH={micro} does not divide the {size} samples of each process and step")
    for start in range(0, size - micro, micro):
        with ExitStack() as unsynchronised:
            for model in models:
                unsynchronised.enter_context(accelerator.no_sync(model))
            yield slice(start, start + micro)
    yield slice(size - micro, size)
