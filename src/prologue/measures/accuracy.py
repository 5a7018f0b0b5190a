"""How often a classifier is right."""

from torch import Tensor


def accuracies(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """top1 and top5 of logits (N, C) and labels (N,)."""
    return {f"top{k}": top_share(logits, labels, k) for k in (1, 5)}


def top_share(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of rows of logits (N, C) with the right label among the k largest (among all where C < k)."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(dim=1).double().mean().item()
