"""AdamW groups and the learning-rate schedule."""

from torch import nn
from torch.optim import AdamW, Optimizer

from prologue.models.transformer import is_gate_or_norm
from prologue.params import ScheduleParams


def learning_rate(schedule: ScheduleParams, step: int) -> float:
    """Linear warm-up, flat at the peak, then linear to `lr_end` at the last step; `step` counts from 0."""
    if step < schedule.warmup:
        return schedule.lr * (step + 1) / schedule.warmup
    decay_start = schedule.warmup + schedule.flat
    if step < decay_start:
        return schedule.lr
    share = (step - decay_start) / max(1, schedule.steps - 1 - decay_start)
    return schedule.lr + (schedule.lr_end - schedule.lr) * share


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


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set every group's learning rate to `rate` times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
