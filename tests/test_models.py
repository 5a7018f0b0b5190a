"""The networks: where gradients go, what the cache-based sampler draws, what is saved."""

import math
from pathlib import Path

import pytest
import torch
from conftest import tiny_params

from prologue.errors import PrologueError
from prologue.models.ar import ARConfig, ARModel, Vocabulary
from prologue.models.export import load_tokenizer, save_model
from prologue.models.quantizers import PrologueQuantizer
from prologue.models.tokenizer import Tokenizer
from prologue.models.vit import patchify, unpatchify
from prologue.params import TransformerParams
from prologue.plan import plan_tokenizer
from prologue.sampling import Guidance, Temperatures, generate
from prologue.training.joint_ar import joint_ar_loss
from prologue.training.tokenizer import tokenizer_config


def make_tokenizer(**overrides: object) -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer(tokenizer_config(plan_tokenizer(tiny_params(**overrides))))


def make_ar(tokenizer: Tokenizer) -> ARModel:
    torch.manual_seed(1)
    vocabulary = Vocabulary(
        visual_codebook=32,
        prologue_codebook=tokenizer.prologue_codebook,
        visual_tokens=16,
        prologue_tokens=tokenizer.prologue_tokens,
        classes=2,
    )
    ar = ARModel(ARConfig(vocabulary=vocabulary, transformer=TransformerParams(layers=2, dim=64)))
    for parameter in ar.parameters():  # far from the start, where gates are almost closed
        torch.nn.init.normal_(parameter, std=0.3)
    return ar.eval()


def images(count: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def null_classes(ar: ARModel) -> torch.Tensor:
    return torch.full((4,), ar.vocabulary.null_class)


def test_prob_ste_is_one_hot_forward_and_softmax_backward() -> None:
    torch.manual_seed(0)
    quantizer = PrologueQuantizer(dim=8, code_dim=4, codes=5, tau=0.1)
    features = torch.randn(2, 3, 8, requires_grad=True)
    one_hot = quantizer(features)
    assert torch.equal(one_hot.detach().round(decimals=6), torch.eye(5)[one_hot.argmax(-1)])
    weights = torch.randn(5)
    (straight,) = torch.autograd.grad((one_hot * weights).sum(), features)
    soft = torch.softmax(quantizer.similarity(quantizer.project(features)) / 0.1, dim=-1)
    (expected,) = torch.autograd.grad((soft * weights).sum(), features)
    torch.testing.assert_close(straight, expected)


@pytest.mark.parametrize("dropped", [False, True])
def test_the_ar_gradient_reaches_the_encoder_through_the_prologue_alone(dropped: bool) -> None:
    tokenizer = make_tokenizer()
    ar = make_ar(tokenizer)
    output = tokenizer(images())
    joint_ar_loss(ar, ar, output, 3.0, null_classes(ar), torch.full((4,), dropped)).total.backward()
    assert tokenizer.prologue_quantizer is not None
    for parameter in [tokenizer.encoder.stack.queries, *tokenizer.prologue_quantizer.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    for module in (tokenizer.visual_quantizer, tokenizer.decoder):
        assert all(parameter.grad is None for parameter in module.parameters())


def test_one_backward_pass_equals_two_alternating_ones() -> None:
    tokenizer = make_tokenizer()
    ar = make_ar(tokenizer)
    drop = torch.tensor([True, False, True, False])
    joint_ar_loss(ar, ar, tokenizer(images()), 3.0, null_classes(ar), drop).total.backward()
    together = [tokenizer.encoder.stack.queries.grad, ar.out.weight.grad, ar.token_embedding.weight.grad]
    tokenizer.zero_grad(), ar.zero_grad()
    ar.requires_grad_(False)
    output = tokenizer(images())
    null = torch.full((4,), ar.vocabulary.null_class)
    logits = ar(output.prologue, output.visual.ids, null, drop)
    ids = output.prologue.argmax(-1)
    (3.0 * ar.loss(logits, ids, output.visual.ids).total.mean() / ar.vocabulary.length).backward()
    ar.requires_grad_(True)
    logits = ar(ids, output.visual.ids, null, drop)
    (ar.loss(logits, ids, output.visual.ids).total.mean() / ar.vocabulary.length).backward()
    apart = [tokenizer.encoder.stack.queries.grad, ar.out.weight.grad, ar.token_embedding.weight.grad]
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("mode", ["joint", "none"])
def test_cached_greedy_sampling_agrees_with_the_full_forward_pass(mode: str) -> None:
    ar = make_ar(make_tokenizer(prologue__mode=mode))
    vocabulary = ar.vocabulary
    classes, guidance = torch.tensor([0, 1, 1]), Guidance(prologue=0.7, visual=4.0, power=0.3)
    tokens = generate(ar, classes, guidance, Temperatures(0, 0))
    conditional = ar(tokens.prologue, tokens.visual, classes)
    unconditional = ar(tokens.prologue, tokens.visual, torch.full_like(classes, vocabulary.null_class))
    for position, ids in enumerate(vocabulary.sequence(tokens.prologue, tokens.visual).T):
        if position == vocabulary.prologue_tokens and vocabulary.prologue_tokens:
            assert (ids == vocabulary.eos).all()
            continue
        can_stand = vocabulary.prologue_ids if position < vocabulary.prologue_tokens else vocabulary.visual_ids
        scale = guidance.scale(position, vocabulary)
        mixed = scale * conditional[:, position, can_stand] + (1 - scale) * unconditional[:, position, can_stand]
        assert torch.equal(mixed.argmax(-1) + can_stand.start, ids)


def test_an_image_depends_on_its_own_seed_only_and_a_held_prologue_stays() -> None:
    ar = make_ar(make_tokenizer())
    classes = torch.tensor([0, 1, 0, 1])
    seeds = [(0, i) for i in range(4)]
    all_at_once = generate(ar, classes, seeds=seeds)
    assert all_at_once.prologue is not None
    alone = generate(ar, classes[2:3], seeds=seeds[2:3])
    assert torch.equal(alone.visual[0], all_at_once.visual[2])
    held = generate(ar, classes, seeds=[(1, i) for i in range(4)], prologue=all_at_once.prologue)
    assert torch.equal(held.prologue, all_at_once.prologue)
    assert not torch.equal(held.visual, all_at_once.visual)


def test_low_temperature_draws_the_most_likely_ids_and_seeds_change_high_ones() -> None:
    ar = make_ar(make_tokenizer())
    classes = torch.zeros(8, dtype=torch.long)
    seeds = [(0, i) for i in range(8)]
    cold = generate(ar, classes, seeds=seeds, temperatures=Temperatures(1e-6, 1e-6))
    greedy = generate(ar, classes, seeds=seeds, temperatures=Temperatures(0, 0))
    assert torch.equal(cold.visual, greedy.visual)
    hot = generate(ar, classes, seeds=seeds, temperatures=Temperatures(5.0, 5.0))
    assert len(hot.visual.unique(dim=0)) == 8


def test_guidance_schedule_is_constant_then_rises_from_one() -> None:
    vocabulary = Vocabulary(visual_codebook=4, prologue_codebook=4, visual_tokens=16, prologue_tokens=3, classes=2)
    guidance = Guidance(prologue=0.7, visual=3.0, power=1.0)
    scales = [guidance.scale(position, vocabulary) for position in range(vocabulary.length)]
    assert scales[:3] == [0.7] * 3
    assert scales[3] == 1.0
    assert scales[3:] == sorted(scales[3:])
    assert scales[4] == pytest.approx(2 - math.cos(math.pi / 17))  # EOS counts into the segment's length


def test_patches_are_ordered_row_column_channel_and_come_back() -> None:
    image = torch.arange(2 * 3 * 8 * 8).float().view(2, 3, 8, 8)
    patches = patchify(image, 4)
    assert patches[0, 1, :6].tolist() == [image[0, c, 0, 4 + x] for x in range(2) for c in range(3)]
    assert torch.equal(unpatchify(patches, 4, 2), image)


@pytest.mark.parametrize("layout", ["2d", "1d"])
def test_a_saved_tokenizer_encodes_and_decodes_as_before(layout: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tokenizer__layout=layout).eval()
    save_model(tmp_path / "model", tokenizer)
    loaded = load_tokenizer(tmp_path / "model")
    tokens, again = tokenizer.encode(images()), loaded.encode(images())
    assert torch.equal(tokens.visual, again.visual)
    assert tokens.visual.shape == (4, 16)
    assert torch.equal(tokenizer.decode(tokens.visual), loaded.decode(again.visual))


def test_a_model_folder_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "model", make_tokenizer())
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"codebook": 32', '"codebook": 33'))
    with pytest.raises(PrologueError, match=r"model.safetensors does not fit"):
        load_tokenizer(tmp_path / "model")
    with pytest.raises(PrologueError, match=r"config.json is missing"):
        load_tokenizer(tmp_path)
