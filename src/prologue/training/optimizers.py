"""AdamW groups, their steps and the norms of their gradients."""

from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import AdamW, Optimizer

from prologue.models.transformer import is_gate_or_norm


def build_adamw(module: nn.Module, betas: tuple[float, float], weight_decay: float, gate_lr_scale: float) -> AdamW:
    """AdamW over the trainable parameters of a module, known by name.

    No weight decay on 1-d tensors (norms, biases, gates); gates and norm scales move `gate_lr_scale` times faster.
    """
    groups: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            scale = gate_lr_scale if is_gate_or_norm(name) else 1.0
            decay = weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((scale, decay), []).append((name, parameter))
    return AdamW(
        [
            {"params": parameters, "lr_scale": scale, "weight_decay": decay}
            for (scale, decay), parameters in groups.items()
        ],
        lr=0.0,  # set before every step
        betas=betas,
        fused=True,
    )


def apply(optimizer: Optimizer, rate: float, broken: Tensor) -> None:
    """One step of an optimizer at a learning rate, times each group's own scale; its gradients are cleared.

    AdamW moves nothing where the scalar `broken` is 1, and the device decides that by itself.
    """
    optimizer.found_inf = broken  # type: ignore[attr-defined]  # what PyTorch's GradScaler tells fused optimizers
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
    optimizer.step()
    optimizer.zero_grad()


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """Norm of all gradients of an optimizer's parameters together: scalar."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
