"""The published method, number by number: the authors' checkpoints, loaded into this project's own classes.

`PUBLISHED_FIXTURES` names another directory of checkpoints to try, each with meta.json and expected.npz.
"""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from prologue.core.errors import PrologueError
from prologue.interop.published import (
    TOKENIZER_FILES,
    ar_file,
    ar_sources,
    load_ar,
    load_tokenizer,
    tokenizer_sources,
)
from prologue.interop.tensors import convert, read_tensors
from prologue.models.ar import ARModel, TokenLosses
from prologue.models.saved import load_ar as load_saved_ar
from prologue.models.saved import save_model
from prologue.models.tokenizer import Tokenizer, Tokens
from prologue.sampling import Choice, Choices, Guidance, generate
from prologue.training.joint_ar import joint_ar_loss

FIXTURES = Path(os.environ.get("PUBLISHED_FIXTURES", Path(__file__).parent / "published"))
FOLDERS = sorted(path.parent for path in FIXTURES.glob("*/expected.npz"))
assert FOLDERS, f"{FIXTURES} holds no checkpoints"

GREEDY = Choices(Choice(top_k=1), Choice(top_k=1))
Expected = dict[str, NDArray[Any]]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_numbers_are_those_of_the_authors_program(folder: Path) -> None:
    expected = dict(np.load(folder / "expected.npz"))
    known: tuple[tuple[Literal["raw", "ema"], str], ...] = (("raw", ""), ("ema", "ema_"))
    for weights, prefix in known:
        if (folder / "tokenizer" / TOKENIZER_FILES[weights][0]).is_file():  # the fixtures leave raw weights out
            check_tokenizer(load_tokenizer(folder, weights), expected, prefix)
    tokenizer = load_tokenizer(folder)
    ar = load_ar(folder, tokenizer)
    check_sizes(tokenizer, ar, json.loads((folder / "meta.json").read_text()))
    check_logits(ar, expected)
    check_greedy_samples(ar, expected)
    for drop in (0, 1):
        listed = {key: value for key, value in expected.items() if key.startswith(f"stage1_drop{drop}_")}
        if listed:
            check_stage1(folder, tokenizer, ar, torch.from_numpy(expected["images"]), bool(drop), listed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("enc.layers.1.ffn.fc1.bias"), r"missing: enc\.layers\.1\.ffn\.fc1\.bias$"),
        (lambda tensors: tensors.pop("quantizer.embedding.weight"), r"missing tensors: quantizer\.embedding\.weight$"),
        (lambda tensors: tensors.update({"enc.spare": torch.ones(1)}), r"unknown: enc\.spare$"),
        (lambda tensors: tensors["enc.input_layer.bias"].fill_(math.nan), r"not finite: enc\.input_layer\.bias$"),
        (
            lambda tensors: tensors.update({"quantizer.proj_in.weight": torch.ones(14, 3)}),
            r"does not fit: quantizer\.proj_in\.weight \(14, 3\) \(for visual_quantizer\.proj_in\.weight \(14, 64\)\)$",
        ),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_by_name(
    change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path
) -> None:
    shutil.copytree(Path(__file__).parent / "published" / "2d", tmp_path / "2d")
    file = tmp_path / "2d" / "tokenizer" / "model_2.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(PrologueError, match=message) as refused:
        load_tokenizer(tmp_path / "2d")
    assert str(file) in str(refused.value)


def test_a_partial_folder_and_another_tokenizers_ar_model_are_refused(tmp_path: Path) -> None:
    published = Path(__file__).parent / "published"
    shutil.copytree(published / "2d", tmp_path / "2d")
    (tmp_path / "2d" / "tokenizer" / "model_3.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(PrologueError, match=r"model_3\.safetensors is damaged"):
        load_tokenizer(tmp_path / "2d")
    (tmp_path / "2d" / "tokenizer" / "model_3.safetensors").unlink()
    with pytest.raises(PrologueError, match=r"missing: .*2d/tokenizer/model_3\.safetensors$"):
        load_tokenizer(tmp_path / "2d")
    shutil.rmtree(tmp_path / "2d" / "ar")
    tokenizer = load_tokenizer(published / "2d")
    with pytest.raises(PrologueError, match=r"missing: .*2d/ar/model\.safetensors$"):
        load_ar(tmp_path / "2d", tokenizer)
    with pytest.raises(
        PrologueError, match=r"semantic_emb\.weight \(121, 128\) \(for token_embedding\.weight \(96, 128\)"
    ):
        load_ar(published / "prologue", tokenizer)


def test_a_folder_without_a_second_stage_gives_the_jointly_trained_ar_model(tmp_path: Path) -> None:
    """Prologue-OneStage; here with a tied output layer too."""
    published = Path(__file__).parent / "published" / "prologue"
    shutil.copytree(published / "tokenizer", tmp_path / "tokenizer")
    tensors = load_file(published / "ar" / "model.safetensors")
    tensors["semantic_emb.weight"] = tensors.pop("ar_model.out.weight").clone()
    save_file(tensors, tmp_path / "tokenizer" / "model_5.safetensors")
    ar = load_ar(tmp_path, load_tokenizer(tmp_path))
    assert ar.config.tied
    save_model(tmp_path / "saved", ar)
    tokens = Tokens(torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 16, dtype=torch.long))
    logits = ar(tokens.prologue, tokens.visual, torch.tensor([0, 10]))
    assert torch.equal(logits, load_saved_ar(tmp_path / "saved")(tokens.prologue, tokens.visual, torch.tensor([0, 10])))


def check_sizes(tokenizer: Tokenizer, ar: ARModel, meta: dict[str, Any]) -> None:
    """Everything that meta.json says was told from the tensors' shapes."""
    config = tokenizer.config
    assert (config.image_size, config.tokenizer.patch) == (meta["image_size"], meta["patch_size"])
    assert (config.tokenizer.codebook, tokenizer.prologue_codebook) == (
        meta["visual_codebook"],
        meta["prologue_codebook"],
    )
    assert (tokenizer.prologue_tokens, ar.vocabulary.classes) == (meta["prologue_tokens"], meta["num_classes"])
    assert ar.config.tied == meta["ar"]["tied_embedding"]
    parts = {"encoder": config.tokenizer.encoder, "decoder": config.tokenizer.decoder, "ar": ar.config.transformer}
    for name, size in parts.items():
        assert (size.layers, size.dim) == (meta[name]["layers"], meta[name]["dim"]), name


def check_tokenizer(tokenizer: Tokenizer, expected: Expected, prefix: str) -> None:
    """Features, ids and reconstruction of the images."""
    images, config = torch.from_numpy(expected["images"]), tokenizer.config
    with torch.no_grad():
        features = tokenizer.encoder_features(images)
    known = torch.from_numpy(expected[f"{prefix}encoder_features"])
    visual = known[:, known.shape[1] - tokenizer.visual_tokens :] if config.tokenizer.layout == "1d" else known
    assert_close(features.visual, visual[:, : tokenizer.visual_tokens])
    if tokenizer.prologue_tokens and not tokenizer.prologue_encoder:
        assert_close(features.prologue, visual[:, tokenizer.visual_tokens :])
    tokens = tokenizer.encode(images)
    ids = torch.cat([part for part in tokens if part is not None], dim=1)
    assert torch.equal(ids, torch.from_numpy(expected[f"{prefix}token_ids"]))
    assert_close(tokenizer.decode(tokens.visual), expected[f"{prefix}reconstruction"])


def check_logits(ar: ARModel, expected: Expected) -> None:
    prologue, visual = ar.vocabulary.split(torch.from_numpy(expected["ar_input_ids"]))
    with torch.no_grad():
        logits = ar(prologue, visual, torch.from_numpy(expected["ar_classes"]))
    assert_close(logits, expected["ar_logits"])


def check_greedy_samples(ar: ARModel, expected: Expected) -> None:
    spec = json.loads(str(expected["cfg_spec"]))
    assert (spec.get("prologue_schedule", "constant"), spec["visual_schedule"]) == ("constant", "cosine")
    guidance = Guidance(spec.get("prologue_scale", 1.0), spec["visual_scale"], spec["visual_power"])
    classes = torch.from_numpy(expected["sample_classes"])
    for key, own in (("greedy_cfg_ids", guidance), ("greedy_nocfg_ids", None)):
        tokens = generate(ar, classes, guidance=own, choices=GREEDY)
        ids = ar.vocabulary.sequence(tokens.prologue, tokens.visual)
        assert torch.equal(ids, torch.from_numpy(expected[key])), key


def check_stage1(folder: Path, tokenizer: Tokenizer, ar: ARModel, images: Tensor, drop: bool, listed: Expected) -> None:
    """Cross-entropy parts, VQ loss, and the gradients of the cross-entropy in the published tensors."""
    files = [folder / "tokenizer" / name for name in TOKENIZER_FILES["ema"]]
    published = {name: tensor.requires_grad_() for name, tensor in read_tensors(files).items()}
    published_ar = {name: tensor.requires_grad_() for name, tensor in read_tensors([ar_file(folder, "raw")]).items()}
    ar_weights = {f"ar.{name}": tensor for name, tensor in convert(published_ar, ar_sources(ar.config)).items()}

    def call_ar(*inputs: Tensor) -> Tensor:
        return torch.func.functional_call(TokenLosses(ar), ar_weights, inputs)

    weights = convert(published, tokenizer_sources(tokenizer.config))
    output = torch.func.functional_call(tokenizer, weights, (images,))
    null = torch.full((len(images),), ar.vocabulary.null_class)
    loss = joint_ar_loss(call_ar, ar.vocabulary, output, 1.0, null, torch.full((len(images),), drop))
    loss.total.backward()

    stack = "semantic_enc" if tokenizer.prologue_encoder else "enc"
    gradients = {name: tensor.grad for name, tensor in published.items()}
    found = {
        "ce_prologue": loss.prologue,
        "ce_eos": loss.eos,
        "ce_visual": loss.visual,
        "vq_loss_visual": output.visual.loss,
        "grad_prologue_codebook": gradients["semantic_quantizer.embedding.weight"],
        "grad_prologue_proj_in": gradients["semantic_quantizer.proj_in.weight"],
        "grad_visual_codebook": gradients["quantizer.embedding.weight"],
        "grad_visual_proj_in": gradients["quantizer.proj_in.weight"],
        "grad_queries": gradients[f"{stack}.learnable_query"],
        "grad_norm_encoder": norm({name: grad for name, grad in gradients.items() if name.startswith("enc.")}),
        "grad_norm_ar": norm({name: tensor.grad for name, tensor in published_ar.items()}),
    }
    for key, value in listed.items():
        name = key.split("_", 2)[2]
        if name in ("grad_visual_codebook", "grad_visual_proj_in"):
            assert found[name] is None, name
        else:
            assert_close(found[name], value, 1e-5 if name.startswith("ce_") else 1e-4)


def norm(gradients: dict[str, Tensor | None]) -> Tensor:
    """Norm of all gradients together, float64."""
    return torch.stack([grad.double().square().sum() for grad in gradients.values() if grad is not None]).sum().sqrt()


def assert_close(actual: Tensor | None, expected: NDArray[Any] | Tensor, tolerance: float = 1e-4) -> None:
    """Equal within a share of the largest expected value."""
    assert actual is not None
    known = torch.as_tensor(expected).double()
    assert actual.shape == known.shape
    assert (actual.detach().double() - known).abs().max() <= tolerance * known.abs().max()
