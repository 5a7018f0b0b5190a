"""Folding published tensors into this project's: which ones make each of ours, how, and whether they fit.

Published norm scales and residual gates are linear maps of a conditioning vector that is constant (the null class), so
they fold to plain vectors.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from prologue.errors import PrologueError

Fold = Callable[..., Tensor]
Sources = dict[str, tuple[Fold, tuple[str, ...]]]  # our tensor -> how it is made, of which published tensors
IGNORED = re.compile(r"(.*\.)?(pos_select_mask|uncond_ar_labels|logit_mask)")  # constants of the authors' program
CONDITIONING = ("cond_proj.0.weight", "cond_proj.0.bias", "cond_proj.1.weight")
SHOWN = 8  # names of each kind in an error


def read_tensors(files: Iterable[Path]) -> dict[str, Tensor]:
    """All tensors of safetensors files as fp32. Raises PrologueError for files that are missing or damaged."""
    tensors: dict[str, Tensor] = {}
    files = list(files)
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise PrologueError(f"no published checkpoint, missing: {', '.join(missing)}")
    for file in files:
        try:
            tensors |= load_file(file)
        except SafetensorError as error:
            raise PrologueError(f"{file} is damaged or no safetensors file: {error}") from None
    return {name: tensor.float() for name, tensor in tensors.items()}


def fold(tensors: dict[str, Tensor], sources: Sources) -> dict[str, Tensor]:
    """Our tensors of published ones, which must fit; differentiable."""
    return {own: make(*(tensors[name] for name in names)) for own, (make, names) in sources.items()}


def check_fit(tensors: dict[str, Tensor], sources: Sources, model: nn.Module, where: str) -> None:
    """Raise PrologueError unless published tensors make exactly the tensors of `model`; the message names every one.

    It names tensors that are missing, unknown, hold NaN or infinity, or would make one of ours of another shape.
    """
    needed = {name for _, names in sources.values() for name in names}
    problems = {
        "missing": sorted(needed - tensors.keys()),
        "unknown": sorted(name for name in tensors.keys() - needed if not IGNORED.fullmatch(name)),
        "not finite": sorted(name for name in needed & tensors.keys() if not tensors[name].isfinite().all()),
        "of a shape that does not fit": _misfits(tensors, sources, model),
    }
    found = [f"tensors {kind}: {_shortened(names)}" for kind, names in problems.items() if names]
    if found:
        raise PrologueError(f"{where} cannot be used:\n  " + "\n  ".join(found))


def _misfits(tensors: dict[str, Tensor], sources: Sources, model: nn.Module) -> list[str]:
    """Published tensors, with their shapes, that do not make our tensor's shape."""
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


def linear(own: str, published: str) -> Sources:
    """Weight and bias of a linear layer."""
    return plain(f"{own}.weight", f"{published}.weight") | plain(f"{own}.bias", f"{published}.bias")


def norm(own: str, stack: str, published: str) -> Sources:
    """The conditioned RMS norm `published` of the transformer `stack`: scale = 1 + affine.weight @ c + affine.bias."""
    names = [f"{published}.affine.weight", f"{published}.affine.bias", *CONDITIONING]
    return {f"{own}.scale": (_norm_scale, tuple(f"{stack}.{name}" for name in names))}


def transformer(own: str, stack: str, layers: int, bias: bool) -> Sources:
    """All blocks of the published transformer `stack`; AR models have no bias, in linear layers as in gates."""
    sources: Sources = {}
    for layer in range(layers):
        block, published = f"{own}.blocks.{layer}", f"layers.{layer}"
        sources |= norm(f"{block}.attention_norm", stack, f"{published}.adaln_1")
        sources |= norm(f"{block}.feed_forward_norm", stack, f"{published}.adaln_mlp")
        sources |= _attention_inputs(f"{block}.attention", f"{stack}.{published}.attn1")
        sources |= _output(f"{block}.attention.proj", stack, f"{published}.attn1.proj", f"{published}.gate1", bias)
        fc1 = linear if bias else _weight
        sources |= fc1(f"{block}.feed_forward.fc1", f"{stack}.{published}.ffn.fc1")
        sources |= _output(f"{block}.feed_forward.fc2", stack, f"{published}.ffn.fc2", f"{published}.gate_mlp", bias)
    return sources


def _attention_inputs(own: str, published: str) -> Sources:
    """Queries, keys and values in one matrix, and the norms of queries and keys."""
    sources: Sources = {f"{own}.qkv.weight": (_stacked, (f"{published}.to_q.weight", f"{published}.to_kv.weight"))}
    for name in ("q_norm", "k_norm"):
        sources[f"{own}.{name}.scale"] = (_offset_scale, (f"{published}.{name}.weight",))
    return sources


def _output(own: str, stack: str, published: str, gate: str, bias: bool) -> Sources:
    """The last linear layer of a residual branch with the branch's gate."""
    maps = [f"{gate}.weight", f"{gate}.bias"] if bias else [f"{gate}.weight"]
    names = tuple(f"{stack}.{name}" for name in (*CONDITIONING, *maps))
    layer = linear if bias else _weight
    return {f"{own}.gate": (_gate, names)} | layer(own, f"{stack}.{published}")


def _weight(own: str, published: str) -> Sources:
    return plain(f"{own}.weight", f"{published}.weight")


def _stacked(*tensors: Tensor) -> Tensor:
    return torch.cat(tensors)


def _offset_scale(weight: Tensor) -> Tensor:
    return 1 + weight


def _condition(weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
    """The constant conditioning vector: gelu(rms_norm(projection of the null class, the last column))."""
    projected = weight[:, -1] + bias
    normed = projected / projected.norm().clamp_min(1e-12) * len(projected) ** 0.5
    return F.gelu(normed * (1 + scale), approximate="tanh")


def _norm_scale(weight: Tensor, bias: Tensor, *conditioning: Tensor) -> Tensor:
    return 1 + weight @ _condition(*conditioning) + bias


def _gate(projection: Tensor, bias: Tensor, scale: Tensor, weight: Tensor, gate_bias: Tensor | None = None) -> Tensor:
    gate = weight @ _condition(projection, bias, scale)
    return gate if gate_bias is None else gate + gate_bias
