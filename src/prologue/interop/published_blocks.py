"""How the tensors of a published transformer become those of ours.

Published norm scales and residual gates are linear maps of a conditioning vector that is constant (the null class), so
they fold to plain vectors.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from prologue.interop.tensors import Sources, linear, plain

CONDITIONING = ("cond_proj.0.weight", "cond_proj.0.bias", "cond_proj.1.weight")


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
