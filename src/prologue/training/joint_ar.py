"""The cross-entropy of the AR model that is trained beside a tokenizer, and the one line that routes its gradient."""

from collections.abc import Callable

from torch import Tensor

from prologue.models.ar import SequenceLoss
from prologue.models.tokenizer import TokenizerOutput
from prologue.models.vocabulary import Vocabulary


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """Identity forward, to the bit; backward multiplies the gradient by `scale`."""
    return x.detach() + scale * (x - x.detach())


def joint_ar_loss(
    ar: Callable[..., Tensor],
    vocabulary: Vocabulary,
    output: TokenizerOutput,
    weight: float,
    classes: Tensor,
    drop_visual: Tensor | None,
) -> SequenceLoss:
    """Cross-entropy of [class] prologue [EOS] visual (Sec. 2.2): mean over images, per token of the sequence.

    One backward pass serves both halves of an alternating step: the AR model gets its plain gradient and the encoder
    lambda_AR times it, as if each had been updated apart, since the AR model does not change between the two.

    Args:
        ar: `TokenLosses` of the AR model, as wrapped for the launch.
        vocabulary: the AR model's.
        output: of the tokenizer; only its one-hots carry gradient into it: the prologue's, or those of the visual
            tokens where the gradient is routed to them (Fig. 5).
        weight: lambda_AR.
        classes: ids (B,).
        drop_visual: bool (B,), images whose visual inputs are all EOS; None for none.

    Returns:
        Each segment's share in nats (scalars); `total` is what trains.
    """
    prologue, routed = output.prologue, output.visual.one_hots
    losses = ar(
        None if prologue is None else scale_gradient(prologue, weight),  # the routes: one-hots, and nothing else
        output.visual.ids if routed is None else scale_gradient(routed, weight),
        classes,
        drop_visual,
    )
    return SequenceLoss.of(losses, vocabulary).per_token(vocabulary)
