"""`precision: auto`: what pays on this machine, timed once; an explicit precision stays."""

from pathlib import Path

import pytest
import torch
from calls import record_calls
from tiny import tiny_params

from prologue.core import precision
from prologue.core.precision import settle


@pytest.mark.parametrize(("speedup", "chosen"), [(0.2, "fp32"), (1.1, "fp32"), (2.3, "bf16")])
def test_auto_is_what_pays_and_is_timed_once(
    speedup: float, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = []

    def seconds(dtype: torch.dtype) -> float:
        timed.append(dtype)
        return speedup if dtype == torch.float32 else 1.0

    monkeypatch.setattr(precision, "user_cache_path", lambda _: tmp_path)
    monkeypatch.setattr(precision, "_product_seconds", seconds)
    asked = tiny_params().model_copy(update={"precision": "auto"})
    asked = asked.model_copy(update={"sampling": asked.sampling.model_copy(update={"precision": "auto"})})
    for _ in range(2):
        used = settle(asked)
        assert (used.precision, used.sampling.precision) == (chosen, chosen)
    assert len(timed) == 2
    assert settle(used) == used  # nothing is asked of the machine


def test_products_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "SIZE", 64)
    products = record_calls(monkeypatch, torch.nn.functional, "linear")
    for dtype in (torch.float32, torch.bfloat16):
        products.clear()
        assert precision._product_seconds(dtype) > 0
        assert {factor.dtype for factors in products for factor in factors} == {dtype}
