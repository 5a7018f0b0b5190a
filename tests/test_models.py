"""The networks: where gradients go, what the cache-based sampler draws, what is saved."""

from pathlib import Path

import pytest
import torch
from small_models import images, make_ar, make_tokenizer

from prologue.core.errors import PrologueError
from prologue.models.ar import ARModel
from prologue.models.quantizers import PrologueQuantizer
from prologue.models.saved import load_tokenizer, save_model
from prologue.models.vit import patchify, unpatchify
from prologue.training.joint_ar import joint_ar_loss


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
    joint_ar_loss(ar.losses, ar.vocabulary, output, 3.0, null_classes(ar), torch.full((4,), dropped)).total.backward()
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
    joint_ar_loss(ar.losses, ar.vocabulary, tokenizer(images()), 3.0, null_classes(ar), drop).total.backward()
    together = [tokenizer.encoder.stack.queries.grad, ar.out.weight.grad, ar.token_embedding.weight.grad]
    tokenizer.zero_grad()
    ar.zero_grad()
    ar.requires_grad_(False)
    output = tokenizer(images())
    null = torch.full((4,), ar.vocabulary.null_class)
    (3.0 * ar.losses(output.prologue, output.visual.ids, null, drop).sum(1).mean() / ar.vocabulary.length).backward()
    ar.requires_grad_(True)
    ids = output.prologue.argmax(-1)
    (ar.losses(ids, output.visual.ids, null, drop).sum(1).mean() / ar.vocabulary.length).backward()
    apart = [tokenizer.encoder.stack.queries.grad, ar.out.weight.grad, ar.token_embedding.weight.grad]
    torch.testing.assert_close(together, apart)


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
