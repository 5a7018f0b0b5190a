"""The sizes of the published models, told without building them."""

import pytest
import torch
from tiny import ROOT

from prologue.core.params import Params, TransformerParams
from prologue.core.variants import apply_overrides, load_variants
from prologue.models.ar import ARConfig, ARModel
from prologue.models.saved import parameter_count
from prologue.models.tokenizer import Tokenizer
from prologue.pipeline.describe import describe
from prologue.training.plan import plan_tokenizer
from prologue.training.tokenizer import tokenizer_config

CLASSES = 1000
PUBLISHED = {  # millions of parameters, embeddings and codebooks included
    "imagenet_b_b": {"encoder": 87.1, "decoder": 86.9, "compact AR": 41.3, "AR": 115.5},
    "imagenet_b_l": {"AR": 348.2},
    "imagenet_b_xl": {"AR": 693.5},
    "imagenet_l_b": {"encoder": 87.1, "decoder": 306.3, "AR": 96.6},
    "imagenet_l_l": {"AR": 323.1},
    "imagenet_l_xl": {"AR": 662.0},
}


def variant(monkeypatch: pytest.MonkeyPatch, *names: str) -> Params:
    monkeypatch.chdir(ROOT)
    return apply_overrides(load_variants(list(names)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_models_have_the_published_sizes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params = variant(monkeypatch, name)
    with torch.device("meta"):
        tokenizer = Tokenizer(tokenizer_config(plan_tokenizer(params)))
        vocabulary = tokenizer.vocabulary(CLASSES)
        size = TransformerParams(layers=params.ar.layers, dim=params.ar.dim)
        compact = ARModel(ARConfig(vocabulary=vocabulary, transformer=params.prologue.compact_ar))
        ar = ARModel(ARConfig(vocabulary=vocabulary, transformer=size))
    assert tokenizer.prologue_quantizer is not None
    quantizers = tokenizer.visual_quantizer, tokenizer.prologue_quantizer
    counts = {
        "encoder": sum(map(parameter_count, (tokenizer.encoder, *quantizers))),
        "decoder": parameter_count(tokenizer.decoder),
        "compact AR": parameter_count(compact),
        "AR": parameter_count(ar),
    }
    for part, millions in PUBLISHED[name].items():
        assert counts[part] == pytest.approx(millions * 1e6, rel=0.02), part
    described = {part.name: part.parameters for part in describe(params, CLASSES).parts}
    assert {part: described[part] for part in counts} == counts


@pytest.mark.parametrize(("name", "bits"), [("imagenet_l_b", 0.049), ("imagenet_b_b", 0.057)])
def test_bits_per_pixel_are_those_of_table_a2(name: str, bits: float, monkeypatch: pytest.MonkeyPatch) -> None:
    assert round(describe(variant(monkeypatch, name), CLASSES).bits_per_pixel, 3) == bits


def test_flops_are_two_per_multiply_add_of_every_product(monkeypatch: pytest.MonkeyPatch) -> None:
    params = variant(monkeypatch, "imagenet_b_b")
    flops = {part.name: part.flops for part in describe(params, CLASSES).parts}
    length, dim, layers = 16 + 1 + 256, 768, 12
    block = 4 * dim**2 + 3 * dim * (dim * 11 // 4) + 2 * length * dim  # attention sees every position
    assert flops["AR"] == 2 * length * (layers * block + dim * (16384 + 1024 + 1))


def test_prologue_post_has_an_encoder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [part.name for part in describe(variant(monkeypatch, "imagenet_post"), CLASSES).parts]
    assert names == ["encoder", "decoder", "prologue encoder", "discriminator", "compact AR", "AR"]
