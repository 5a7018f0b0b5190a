"""Numbers that are not finite: found in every process before any weight moves, and traced to where they began."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prologue.core.errors import PrologueError

GRADIENT_NORM = "gradient_norm_"  # prefix of the measurements that are no losses
SHOWN = 8  # parameters named in an error


def not_finite(values: dict[str, float]) -> list[str]:
    """Names of values that are NaN or infinite."""
    return [name for name, value in values.items() if not abs(value) < float("inf")]


def explain_failure(
    broken: list[str], step: int, modules: dict[str, nn.Module], compute: Callable[[], dict[str, Tensor]]
) -> PrologueError:
    """The error for a step whose named values are not finite; computes the step once more to see where that began.

    The values are of all processes together; each computes its own images again.
    """
    seen = _Seen()
    with _watching(modules, seen):
        losses = compute()
    if seen.outputs:
        origin = f"first in the output of {seen.outputs[0]}"
    elif not all(loss.isfinite().all() for loss in losses.values()):
        origin = "first in the loss itself: every module's output is finite"
    elif any(not name.startswith(GRADIENT_NORM) for name in broken):
        origin = "all is finite in what this process computed again: it is another's images, or does not come twice"
    else:
        origin = f"first in the gradient of {', '.join(seen.gradients[:1] or _broken_parameters(modules))}"
    return PrologueError(
        f"step {step + 1}: {', '.join(broken)} not finite; {origin}. This step changed no weight, and the "
        "last checkpoint is kept. Lower the learning rate or use precision: fp32, then run again"
    )


@dataclass
class _Seen:
    """Modules that made numbers which are not finite out of finite ones, in order of appearance."""

    outputs: list[str] = field(default_factory=list)
    gradients: list[str] = field(default_factory=list)


@contextmanager
def _watching(modules: dict[str, nn.Module], seen: _Seen) -> Iterator[None]:
    """Watch the outputs of all modules and the gradients of the innermost ones while the context lasts."""
    handles = []
    for root, parent in modules.items():
        for name, module in parent.named_modules():
            label = f"{root}.{name}" if name else root

            def forward(module: nn.Module, inputs: Any, output: Any, label: str = label) -> None:
                if _broken(output) and not _broken(inputs):
                    seen.outputs.append(label)

            def backward(module: nn.Module, before: Any, after: Any, label: str = label) -> None:
                if _broken(before) and not _broken(after):
                    seen.gradients.append(label)

            handles.append(module.register_forward_hook(forward))
            if not any(True for _ in module.children()):
                handles.append(module.register_full_backward_hook(backward))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _broken(values: Any) -> bool:
    tensors = (values,) if isinstance(values, Tensor) else values if isinstance(values, tuple) else ()
    return any(
        isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all() for value in tensors
    )


def _broken_parameters(modules: dict[str, nn.Module]) -> list[str]:
    names = [
        f"{root}.{name}"
        for root, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    return names[:SHOWN]
