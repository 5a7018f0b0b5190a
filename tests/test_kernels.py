"""The CPU kernels: equal to PyTorch's own operations forward and backward, whatever the threads, and never needed."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from prologue.models import fused, kernels
from prologue.models.dropout import RowDropout

ROTARY = torch.view_as_real(torch.polar(torch.ones(7, 32), torch.rand(7, 32, generator=torch.Generator()) * 6))
KEYS = torch.tensor([5, -7, 2**31 - 1, -(2**31)], dtype=torch.int32)


def dropout(x: Tensor) -> Tensor:
    layer = RowDropout(0.3)
    layer.keys = KEYS
    result: Tensor = layer(x)
    return result


OPERATIONS: dict[str, tuple[Callable[..., Tensor | tuple[Tensor, ...]], list[tuple[int, ...]]]] = {
    "rms_norm": (fused.rms_norm, [(4, 7, 341), (341,)]),
    "heads": (lambda qkv, q, k: fused.heads(qkv, ROTARY, q, k), [(4, 7, 384), (64,), (64,)]),
    "geglu": (fused.geglu, [(4, 7, 682)]),
    "dropout": (dropout, [(4, 7, 33)]),
}


@pytest.fixture(autouse=True)
def compiled() -> Iterator[None]:
    if kernels.library() is None:
        pytest.skip("no C++ compiler")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(name: str, dtype: torch.dtype) -> list[Tensor]:
    """Results and gradients of an operation on inputs that are always the same."""
    operation, shapes = OPERATIONS[name]
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    inputs = [inputs[0].to(dtype), *inputs[1:]]  # scales are always fp32
    for tensor in inputs:
        tensor.requires_grad_()
    results = operation(*inputs)
    outputs = list(results) if isinstance(results, tuple) else [results]
    weighted = [(output.float() * torch.randn(output.shape, generator=generator)).sum() for output in outputs]
    torch.stack(weighted).sum().backward()
    return [*outputs, *(tensor.grad for tensor in inputs if tensor.grad is not None)]


def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "library", lambda: None)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, d) for n in OPERATIONS for d in (torch.float32, torch.bfloat16) if (n, d) != ("rms_norm", torch.bfloat16)],
)
def test_kernels_equal_torch(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    own = run(name, dtype)
    assert "Backward" in type(own[0].grad_fn).__name__
    assert type(own[0].grad_fn).__name__.startswith("_")  # ours, not one of torch
    without_kernels(monkeypatch)
    for mine, theirs in zip(own, run(name, dtype), strict=True):
        assert mine.dtype == theirs.dtype
        tolerance = 5e-6 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", OPERATIONS)
def test_results_do_not_depend_on_threads(name: str) -> None:
    torch.set_num_threads(1)
    alone = run(name, torch.float32)
    torch.set_num_threads(3)
    for one, three in zip(alone, run(name, torch.float32), strict=True):
        assert torch.equal(one, three)


@pytest.mark.parametrize("name", OPERATIONS)
def test_nan_passes_through(name: str) -> None:
    operation, shapes = OPERATIONS[name]
    results = operation(*(torch.full(shape, torch.nan) for shape in shapes))
    for result in results if isinstance(results, tuple) else [results]:
        kept = result[result != 0] if name == "dropout" else result
        assert len(kept)
        assert kept.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_over_a_cache(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 2, 1, 64, generator=generator).to(dtype)
    keys, values = (3 * torch.randn(2, 3, 2, 9, 64, generator=generator)).to(dtype)
    keys[:, :, 5:], values[:, :, 5:] = torch.nan, torch.nan  # not yet written
    attended = torch.empty_like(q)
    kernels.call("decode_attention", dtype, q, keys, values, attended, 6, 9, 5)
    seen = [tensor[:, :, :5].float() for tensor in (keys, values)]
    expected = torch.nn.functional.scaled_dot_product_attention(q.float(), *seen)
    tolerance = 5e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(attended.float(), expected, rtol=tolerance, atol=tolerance)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="9 tokens, but positions of 7"):
        fused.heads(torch.randn(4, 9, 384), ROTARY, torch.ones(64), torch.ones(64))
    with pytest.raises(ValueError, match="dropout of 3 rows has 4 keys"):
        dropout(torch.randn(3, 7, 33))


@pytest.fixture
def _looked_for_again() -> Iterator[None]:
    """The kernels, by the environment of this test."""
    kernels.library.cache_clear()
    yield
    kernels.library.cache_clear()


@pytest.mark.usefixtures("_looked_for_again")
def test_an_empty_cxx_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "")
    assert kernels.library() is not None


@pytest.mark.usefixtures("_looked_for_again")
def test_without_a_compiler_torch_does_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert type(run("geglu", torch.float32)[0].grad_fn).__name__ == "MulBackward0"
    run("geglu", torch.float32)
    assert capsys.readouterr().err.count("no C++ compiler") == 1
