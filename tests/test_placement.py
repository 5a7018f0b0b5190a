"""Tensors of two devices never meet: every forward path on a GPU that is not there, by torch's fake tensors.

They have shapes and devices and no numbers, so that a tensor left on the CPU is an error here too. What needs a driver
(backward passes, graphs) is not reached.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from small_models import make_ar, make_tokenizer
from tiny import tiny_params
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from prologue.core import runtime
from prologue.frozen import networks
from prologue.frozen.extractor import Extractor
from prologue.frozen.perceptual import PerceptualLoss
from prologue.generator import generator as generators
from prologue.generator.generator import Generator
from prologue.interop import load_tokenizer
from prologue.measures.images import image_ssim
from prologue.models.ar import ARModel
from prologue.models.discriminator import Discriminator
from prologue.models.tokenizer import Tokenizer, Tokens, to_signed, to_uint8
from prologue.sampling import choice, generation
from prologue.sampling.choice import Choice, Choices
from prologue.sampling.decoding import Decoder
from prologue.sampling.generation import TokenSampler
from prologue.sampling.graphs import FREE, StaticSteps
from prologue.sampling.guidance import Guidance
from prologue.training.adversarial import LeCam, discriminator_loss, generator_loss
from prologue.training.attach import with_prologue
from prologue.training.joint_ar import joint_ar_loss
from prologue.training.plan import plan_attach

SYSTEMS: dict[str, dict[str, Any]] = {
    "prologue": {},
    "2d": {"prologue__mode": "none"},
    "1d": {"prologue__mode": "none", "tokenizer__layout": "1d"},
    "2d routed": {"prologue__mode": "routed"},
    "1d routed": {"prologue__mode": "routed", "tokenizer__layout": "1d"},
}
THIRD_PARTY = Path(__file__).parent / "third_party"
WITHOUT_KERNELS = ("aten._unsafe_view.default", "aten.empty_like.default", "aten.empty.memory_format")
GUIDANCE = Guidance(prologue=1.5, visual=2.0, power=0.25, schedule="cosine")


@pytest.fixture(autouse=True)
def _on_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, raising=False)
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_, **__: module)  # all are there; fakes cannot be moved
    with FakeTensorMode(), torch.device("cuda"):
        yield


@pytest.fixture(params=[*SYSTEMS, "post"])
def system(request: pytest.FixtureRequest) -> tuple[Tokenizer, ARModel]:
    tokenizer = make_tokenizer(**SYSTEMS.get(request.param, SYSTEMS["2d"]))
    if request.param == "post":
        plan = plan_attach(tiny_params(prologue__mode="post"))
        assert plan is not None
        tokenizer = with_prologue(tokenizer, plan.prologue)
    return tokenizer, make_ar(tokenizer)


def images(count: int = 4) -> Tensor:
    return torch.zeros(count, 3, 16, 16, dtype=torch.uint8)


def on_gpu(*tensors: Tensor | None) -> None:
    assert {tensor.device.type for tensor in tensors if tensor is not None} == {"cuda"}


def test_a_tensor_that_stays_on_the_cpu_is_seen_here() -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(RuntimeError, match="device"):
        tokenizer.encode(images().to("cpu"))


def test_encoding_decoding_and_likelihood(system: tuple[Tokenizer, ARModel]) -> None:
    tokenizer, ar = system
    tokens = tokenizer.encode(images())
    on_gpu(tokens.prologue, tokens.visual, to_uint8(tokenizer.decode(tokens.visual)))
    classes = torch.zeros(4, dtype=torch.long)
    on_gpu(ar.losses(tokens.prologue, tokens.visual, classes), ar(tokens.prologue, tokens.visual, classes))


@pytest.mark.parametrize("tau", [None, 0.1])
def test_the_losses_of_stage_1(system: tuple[Tokenizer, ARModel], tau: float | None) -> None:
    tokenizer, ar = system
    routed = tau if tokenizer.prologue_quantizer is None else None
    output = tokenizer.train()(images(), routed_tau=routed)
    drop = torch.zeros(4, dtype=torch.bool) if tokenizer.prologue_tokens else None
    loss = joint_ar_loss(ar.train().losses, ar.vocabulary, output, 3.0, torch.zeros(4, dtype=torch.long), drop)
    on_gpu(output.reconstruction, output.visual.loss, loss.total)
    discriminator = Discriminator(tiny_params().stage1.discriminator)
    real, fake = discriminator(to_signed(images())), discriminator(output.reconstruction)
    on_gpu(discriminator_loss(real, fake), generator_loss(fake), LeCam()(real, fake))


def test_a_generator_takes_images_and_ids_from_the_cpu(
    system: tuple[Tokenizer, ARModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, ar = system
    generator = Generator("ours", tokenizer, ar, ("dawn", "dusk"), tiny_params().sampling.cfg, "fp32")
    tokens = generator.encode(images().to("cpu"))
    on_gpu(tokens.prologue, tokens.visual)
    taken: list[Tensor] = []

    def decode(_: Tokenizer, visual: Tensor) -> np.ndarray:
        taken.append(visual)
        return np.zeros(1)

    monkeypatch.setattr(generators, "decode", decode)
    sampler = SimpleNamespace(sample=lambda labels, seeds, held: taken.extend((labels, held)))
    monkeypatch.setattr(Generator, "sampler", lambda *_: sampler)
    generator.pixels(Tokens(None, tokens.visual.to("cpu")))
    generator.sample(generator.cfg, [0], [(0, 0)], torch.zeros(1, 3, dtype=torch.long, device="cpu"))
    assert len(taken) == 3
    on_gpu(*taken)


@pytest.mark.parametrize("guidance", [None, GUIDANCE])
def test_a_step_of_sampling_of_every_kind(system: tuple[Tokenizer, ARModel], guidance: Guidance | None) -> None:
    _, ar = system
    vocabulary, block = ar.vocabulary, 4
    decoder = Decoder(ar, block if guidance is None else 2 * block, torch.bfloat16)
    steps = StaticSteps(decoder, block, guidance, Choices(Choice(), Choice(0.9, 5, 0.9)))
    for held in (FREE, vocabulary.prologue_ids.start):
        steps.held[:, : vocabulary.prologue_tokens] = held
        for position in {0, vocabulary.prefix - 1, vocabulary.prefix} - {-1}:
            steps.step(vocabulary.ids_at(position), vocabulary.length, position < vocabulary.prologue_tokens)
    on_gpu(steps.drawn, steps.x, steps.position)


@pytest.mark.parametrize("guidance", [None, GUIDANCE])
def test_a_step_launches_no_more_kernels_than_it_did(
    guidance: Guidance | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most so many for each block, and for all else of a token: guidance, the draw, the next inputs."""
    attend = "scaled_dot_product_attention"  # one kernel on a GPU, many where there is none
    monkeypatch.setattr(torch.nn.functional, attend, lambda q, keys, values, attn_mask: q + attn_mask.sum())
    counts = []
    for layers in (2, 4):
        ar = make_ar(make_tokenizer())
        config = ar.config.model_copy(
            update={"transformer": ar.config.transformer.model_copy(update={"layers": layers})}
        )
        vocabulary, block = ar.vocabulary, 4
        decoder = Decoder(ARModel(config), block if guidance is None else 2 * block, torch.bfloat16)
        steps = StaticSteps(decoder, block, guidance, Choices())
        with Kernels() as kernels:
            steps.step(vocabulary.visual_ids, vocabulary.length, in_prologue=False)
        counts.append(kernels.count)
    assert (counts[1] - counts[0]) / 2 <= 24  # two of them of the line above
    assert counts[0] - (counts[1] - counts[0]) <= 32


class Kernels(TorchDispatchMode):
    """Counts operations that start a kernel: all but views and what only makes room."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        alias = any(result.alias_info and not result.alias_info.is_write for result in function._schema.returns)
        self.count += not alias and function.namespace == "aten" and str(function) not in WITHOUT_KERNELS
        return function(*args, **(kwargs or {}))


class NoFloat64(TorchDispatchMode):
    """Float64 is an error on a GPU, which stands for Apple's here: PyTorch fakes none of those."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = function(*args, **(kwargs or {}))
        for result in results if isinstance(results, tuple | list) else (results,):
            if isinstance(result, Tensor) and result.device.type == "cuda":
                assert result.dtype != torch.float64, f"{function} makes float64 there"
        return results


@pytest.mark.parametrize("guidance", [None, GUIDANCE])
def test_a_device_without_float64_draws_and_measures(
    guidance: Guidance | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (runtime, choice, generation):
        monkeypatch.setattr(module, "WITHOUT_FLOAT64", ("cuda",))
    monkeypatch.setattr(generation, "block_size", lambda ar: 4)
    monkeypatch.setattr(TokenSampler, "_require_finite", lambda self: None)  # these tensors have no values
    with NoFloat64():
        tokenizer = make_tokenizer()
        ar = make_ar(tokenizer)
        sampler = TokenSampler(ar, guidance, Choices(Choice(), Choice(0.9, 5, 0.9)), torch.float32)
        sampler.device = torch.device("cpu")  # token by token, as on all devices but CUDA's
        classes = torch.zeros(3, dtype=torch.long)
        with torch.device("cpu"):  # where tensors are made that nobody places
            tokens = sampler.sample(classes, [(0, image) for image in range(3)])
        copies = to_uint8(tokenizer.decode(tokens.visual))
        on_gpu(copies, tokens.visual)
        assert image_ssim(copies, copies).dtype == torch.float64
        with pytest.raises(AssertionError, match="makes float64 there"):
            copies.double()


TOKENIZERS = {
    str(folder.relative_to(THIRD_PARTY)): load_tokenizer(folder).config
    for folder in sorted(path.parent for path in THIRD_PARTY.rglob("expected.npz"))
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_of_other_projects(name: str) -> None:
    config = TOKENIZERS[name]
    tokenizer = Tokenizer(config)
    pixels = torch.zeros(2, 3, config.image_size, config.image_size, dtype=torch.uint8)
    tokens = tokenizer.encode(pixels)
    on_gpu(tokens.visual, to_uint8(tokenizer.decode(tokens.visual)))


@pytest.fixture
def _fake_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of the shapes that the frozen networks have, as no file can be read into fake tensors."""
    monkeypatch.setattr(networks, "require", lambda name: name)
    monkeypatch.setattr(
        torch, "load", lambda name, weights_only: timm.create_model(f"tf_efficientnet_{name}").state_dict()
    )


@pytest.mark.usefixtures("_fake_weights")
def test_features_and_perceptual_distances() -> None:
    pool, logits = Extractor("lite2", "cuda")(images())
    on_gpu(pool, logits)
    on_gpu(PerceptualLoss("lite0")(to_signed(images()), to_signed(images())))
