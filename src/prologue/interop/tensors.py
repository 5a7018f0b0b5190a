"""Tensors of other programs made into this project's: which ones make each of ours, how, and whether they fit."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor, nn

from prologue.core.errors import PrologueError
from prologue.interop.checkpoints import read_state

Sources = dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]]  # our tensor -> how it is made, of which of theirs
SHOWN = 8  # names of each kind in an error


def read_tensors(files: Iterable[Path]) -> dict[str, Tensor]:
    """All tensors of safetensors files as fp32. Raises PrologueError for files that are missing or damaged."""
    tensors: dict[str, Tensor] = {}
    files = list(files)
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise PrologueError(f"no checkpoint, missing: {', '.join(missing)}")
    for file in files:
        tensors |= read_state(file)
    return {name: tensor.float() for name, tensor in tensors.items()}


def convert(tensors: dict[str, Tensor], sources: Sources) -> dict[str, Tensor]:
    """Our tensors of others, which must fit; differentiable."""
    return {own: make(*(tensors[name] for name in names)) for own, (make, names) in sources.items()}


def check_fit(
    tensors: dict[str, Tensor], sources: Sources, model: nn.Module, where: str, ignored: re.Pattern[str] | None = None
) -> None:
    """Raise PrologueError unless tensors make exactly the tensors of `model`; the message names every one.

    It names tensors that are missing, unknown, hold NaN or infinity, or would make one of ours of another shape; names
    that match `ignored` may be there or not.
    """
    needed = {name for _, names in sources.values() for name in names}
    problems = {
        "missing": sorted(needed - tensors.keys()),
        "unknown": sorted(tensors.keys() - needed - _matching(tensors, ignored)),
        "not finite": sorted(name for name in needed & tensors.keys() if not tensors[name].isfinite().all()),
        "of a shape that does not fit": _misfits(tensors, sources, model),
    }
    found = [f"tensors {kind}: {_shortened(names)}" for kind, names in problems.items() if names]
    if found:
        raise PrologueError(f"{where} cannot be used:\n  " + "\n  ".join(found))


def _matching(tensors: dict[str, Tensor], names: re.Pattern[str] | None) -> set[str]:
    return {name for name in tensors if names and names.fullmatch(name)}


def _misfits(tensors: dict[str, Tensor], sources: Sources, model: nn.Module) -> list[str]:
    """Tensors, with their shapes, that do not make our tensor's shape."""
    misfits = []
    for own, expected in model.state_dict().items():
        make, names = sources[own]
        if not all(name in tensors for name in names):
            continue
        try:
            fits = make(*(tensors[name] for name in names)).shape == expected.shape
        except (RuntimeError, IndexError):  # shapes that cannot even be multiplied
            fits = False
        if not fits:
            shapes = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in names)
            misfits.append(f"{shapes} (for {own} {tuple(expected.shape)})")
    return misfits


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def plain(own: str, published: str) -> Sources:
    """A tensor that is stored as it is."""
    return {own: (lambda tensor: tensor, (published,))}


def as_linear(own: str, published: str) -> Sources:
    """A tensor of a linear layer that is stored as a 1 x 1 convolution's."""
    return {own: (lambda tensor: tensor.flatten(1) if tensor.ndim == 4 else tensor, (published,))}


def linear(own: str, published: str) -> Sources:
    """Weight and bias of a linear layer."""
    return plain(f"{own}.weight", f"{published}.weight") | plain(f"{own}.bias", f"{published}.bias")
