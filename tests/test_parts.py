"""What is as large as a batch times a vocabulary is computed in parts, with the results of the whole."""

from typing import Any

import pytest
import torch
from small_models import images, make_ar, make_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode

from prologue.models import ar as ar_model
from prologue.models import quantizers
from prologue.models.quantizers import VisualQuantizer


class Widest(TorchDispatchMode):
    """Rows of the largest tensor that ends in an axis of so many numbers."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.rows = axis, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor) and tensor.dim() > 1 and tensor.shape[-1] == self.axis:
                self.rows = max(self.rows, tensor.numel() // self.axis)
        return made


def test_logits_are_held_in_parts_with_the_same_losses_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer()
    ar = make_ar(tokenizer)
    with torch.no_grad():
        tokens = tokenizer.encode(images())
    assert tokens.prologue is not None
    prologue = torch.nn.functional.one_hot(tokens.prologue, tokenizer.prologue_codebook).float()
    found, most = [], 70  # more than a transposed weight has rows
    for limit in (ar_model.MAX_LOGITS, most * ar.vocabulary.size):
        monkeypatch.setattr(ar_model, "MAX_LOGITS", limit)
        ar.zero_grad()
        own = prologue.clone().requires_grad_()
        with Widest(ar.vocabulary.size) as widest:
            losses = ar.losses(own, tokens.visual, torch.zeros(4, dtype=torch.long))
            (losses * torch.linspace(0, 1, losses.numel()).view_as(losses)).sum().backward()
        found.append([losses, own.grad, *(parameter.grad for parameter in ar.parameters())])
        assert widest.rows == (4 * ar.vocabulary.length if limit > 2**20 else most)
    torch.testing.assert_close(*found)


def test_similarities_are_held_in_parts_with_the_same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    quantizer = VisualQuantizer(dim=8, code_dim=4, codes=37, commitment=0.25)
    features = torch.randn(3, 7, 8)
    whole = quantizer.encode(features)
    monkeypatch.setattr(quantizers, "SIMILARITIES", 5 * 37)
    with Widest(37) as widest:
        assert torch.equal(quantizer(features).ids, whole)
        assert torch.equal(quantizer.encode(features), whole)
    assert widest.rows == 5
