"""The AR cross-entropy that trains the prologue, and the one line that routes its gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prologue.models.ar import ARModel, SequenceLoss
from prologue.models.tokenizer import TokenizerOutput


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale, None


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """Identity forward; backward multiplies the gradient by `scale`."""
    result: Tensor = _ScaleGradient.apply(x, scale)
    return result


def prologue_loss(
    ar: Callable[..., Tensor], model: ARModel, output: TokenizerOutput, ar_weight: float, drop_visual: Tensor
) -> SequenceLoss:
    """Cross-entropy of [null class] prologue [EOS] visual (Sec. 2.2): mean over images, per token of the sequence.

    One backward pass serves both halves of an alternating step: the AR model gets its plain gradient and the encoder
    lambda_AR times it, as if each had been updated apart, since the AR model does not change between the two.

    Args:
        ar: the AR model as wrapped for the launch; `model` is the same one unwrapped.
        output: of the tokenizer; only the prologue's one-hots carry gradient into it.
        ar_weight: lambda_AR.
        drop_visual: bool (B,), images whose visual inputs are all EOS.

    Returns:
        Each segment's share in nats (scalars); `total` is what trains.
    """
    assert output.prologue is not None
    prologue = scale_gradient(output.prologue, ar_weight)  # the route: one-hots, and nowhere else
    visual = output.visual.ids
    unconditional = torch.full_like(visual[:, 0], model.vocabulary.null_class)
    logits = ar(prologue, visual, unconditional, drop_visual)
    return model.loss(logits, output.prologue.argmax(dim=-1), visual).per_token(model.vocabulary)
