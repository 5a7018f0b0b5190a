"""Tokenizers that people have already: LlamaGen's, taming's, MaskGIT-VQ and TiTok, number by number.

`THIRD_PARTY_FIXTURES` names another directory of checkpoints to try, each a folder with expected.npz at any depth.
"""

import argparse
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import as_keywords, tiny_params, write_image_folder
from torch import Tensor
from training_run import run_stages

from prologue.core.errors import PrologueError
from prologue.data.shards import write_shards
from prologue.interop import load_tokenizer
from prologue.interop.checkpoints import Checkpoint, read_checkpoint
from prologue.interop.imported import describe_checkpoint, import_params, import_tokenizer
from prologue.interop.recognised import in_words, recognise
from prologue.interop.tensors import check_fit
from prologue.interop.vqgan import NOT_OF_THE_TOKENIZER
from prologue.models.config import TokenizerConfig
from prologue.models.saved import save_model
from prologue.models.tokenizer import Tokenizer
from prologue.tokens.cache import TokenCache

OWN = Path(__file__).parent / "third_party"
FIXTURES = Path(os.environ.get("THIRD_PARTY_FIXTURES", OWN))
FOLDERS = sorted(path.parent for path in FIXTURES.rglob("expected.npz"))
assert FOLDERS, f"{FIXTURES} holds no checkpoints"
TAMING, LLAMAGEN, TITOK = OWN / "taming_vqgan", OWN / "llamagen_vq" / "vq8", OWN / "titok" / "direct"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(FIXTURES)))
def test_the_numbers_are_those_of_the_projects_own_programs(folder: Path, tmp_path: Path) -> None:
    expected = dict(np.load(folder / "expected.npz"))
    tokenizer = load_tokenizer(folder)
    check_numbers(tokenizer, expected)
    size, images = tokenizer.config.tokenizer, torch.from_numpy(expected["images"])
    assert (size.codebook, size.code_dim) == (expected["codebook_size"], expected["code_dim"])
    save_model(tmp_path / "saved", tokenizer)
    again = load_tokenizer(tmp_path / "saved")  # a folder of ours by the same function
    assert torch.equal(again.decode(again.encode(images).visual), tokenizer.decode(tokenizer.encode(images).visual))


def check_numbers(tokenizer: Tokenizer, expected: dict[str, Any]) -> None:
    images = torch.from_numpy(expected["images"])
    unit = expected["reconstruction_range"][0] == 0

    def close(got: Tensor, name: str, atol: float) -> None:
        torch.testing.assert_close(got, torch.from_numpy(expected[name]), atol=atol, rtol=0)

    with torch.no_grad():
        features, ids = tokenizer.encoder_features(images).visual, tokenizer.encode(images).visual
        close(ids, "token_ids", 0)
        close(features, "encoder_features", 1e-4)
        close(tokenizer.visual_quantizer.vectors(ids), "code_vectors", 1e-6)
        for got, name in ((ids, "reconstruction"), (torch.from_numpy(expected["decode_ids"]), "decode_images")):
            decoded = tokenizer.decode(got)
            close((decoded + 1) / 2 if unit else decoded, name, 5e-5)


@pytest.mark.parametrize(
    ("family", "name", "words"),
    [
        (
            "llamagen_vq",
            "vq_ds16_c2i.pt",
            "encoder 29.30M, decoder 42.45M; codebook 16384 x 8; 16 x 16 tokens at 256 px",
        ),
        ("maskgit_vq", "maskgit-vqgan-imagenet-f16-256.bin", "codebook 1024 x 256; 16 x 16 tokens at 256 px"),
        ("taming_vqgan", "vqgan_imagenet_f16_1024/ckpts/last.ckpt", "codebook 1024 x 256; 16 x 16 tokens at 256 px"),
        ("titok", "tokenizer_titok_s128_imagenet/model.safetensors", "codebook 4096 x 12; 128 (1D) tokens at 256 px"),
        ("titok", "tokenizer_titok_sl256_vq8k_imagenet/model.safetensors", "8192 x 64; 256 (1D) tokens at 256 px"),
    ],
)
def test_every_tensor_of_the_real_files_has_its_place(family: str, name: str, words: str) -> None:
    shapes = json.loads((OWN / family / "published_tensors.json").read_text())[name]
    direct = "vq8k" in name
    config = {"model": {"vq_model": {"use_l2_norm": not direct, "is_legacy": not direct}}} if family == "titok" else {}
    found = Checkpoint({name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}, config, (Path(name),))
    source = recognise(found)
    size, sources = describe_checkpoint(found, source, "signed")
    with torch.device("meta"):
        tokenizer = Tokenizer(TokenizerConfig(image_size=256, tokenizer=size, prologue=None))
    check_fit(found.tensors, sources(list(tokenizer.state_dict())), tokenizer, name, NOT_OF_THE_TOKENIZER)
    assert words in in_words(source, tokenizer, found.files)


def write_state(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    """Writes LlamaGen's file with its tensors changed."""

    def write(file: Path) -> None:
        content = torch.load(file, weights_only=True)
        change(content["model"])
        torch.save(content, file)

    return write


def without_codebook(tensors: dict[str, Tensor], *others: str) -> None:
    del tensors["quantize.embedding.weight"]
    tensors.update({name: torch.ones(1) for name in others})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda file: file.write_bytes(file.read_bytes()[:5000]), r"vq_ds8_c2i\.pt is damaged or no file of weights"),
        (lambda file: file.write_bytes(b"<html>not found</html>"), r"vq_ds8_c2i\.pt is damaged or no file of weights"),
        (lambda file: file.write_bytes(b""), r"vq_ds8_c2i\.pt is damaged or no file of weights"),
        (lambda file: torch.save({"args": argparse.Namespace()}, file), r"holds argparse\.Namespace .* is not loaded"),
        (lambda file: torch.save({"epoch": 3}, file), r"holds no tensors of a model: epoch"),
        (lambda file: torch.save({"bos": torch.ones(1)}, file), r"no tokenizer that is known \(.*\): it holds bos"),
        (
            lambda file: shutil.copy(file, file.with_name("b.pt")),
            r"several files of weights; .*: b\.pt, vq_ds8_c2i\.pt",
        ),
        (lambda file: file.unlink(), "holds no weights"),
        (write_state(lambda t: without_codebook(t, "quantize.embed.weight")), "a VQGAN with a Gumbel quantizer"),
        (write_state(lambda t: without_codebook(t, "quantize.lfq.mask")), r"another quantizer \(quantize\.lfq\.mask\)"),
        (write_state(without_codebook), "an autoencoder without a codebook"),
        (write_state(lambda t: t.pop("encoder.conv_in.bias")), r"tensors missing: encoder\.conv_in\.bias$"),
        (write_state(lambda t: t.update({"encoder.spare": torch.ones(1)})), r"tensors unknown: encoder\.spare$"),
        (write_state(lambda t: t["quant_conv.bias"].fill_(float("nan"))), r"not finite: quant_conv\.bias$"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(write: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    shutil.copy(LLAMAGEN / "vq_ds8_c2i.pt", tmp_path)
    write(tmp_path / "vq_ds8_c2i.pt")
    with pytest.raises(PrologueError, match=message):
        load_tokenizer(tmp_path)


def test_whatever_bytes_a_file_of_weights_holds_it_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    for first in range(256):
        file.write_bytes(bytes([first]) + b"ello, this is no checkpoint")
        with pytest.raises(PrologueError, match=r"weights\.pt (is damaged or no file of weights|holds )"):
            load_tokenizer(file)


def test_variants_of_taming_and_titok_are_refused_by_name(tmp_path: Path) -> None:
    shutil.copytree(TAMING, tmp_path / "taming")
    config = tmp_path / "taming" / "configs" / "model.yaml"
    config.write_text(config.read_text().replace("taming.models.vqgan.VQModel", "taming.models.vqgan.GumbelVQ"))
    with pytest.raises(PrologueError, match=r"is a taming\.models\.vqgan\.GumbelVQ, which is not read"):
        load_tokenizer(tmp_path / "taming")
    config.write_text("model: [")
    with pytest.raises(PrologueError, match=r"model\.yaml is no YAML of a model: it begins with 'model: \['"):
        load_tokenizer(tmp_path / "taming")
    shutil.copytree(TITOK, tmp_path / "titok")
    told = json.loads((TITOK / "config.json").read_text())
    for change, message in (
        ({"quantize_mode": "vae"}, "quantize_mode vae, without a codebook"),
        ({"is_legacy": "${model.other}"}, r"config\.json: model\.vq_model\.is_legacy is \$\{model\.other\}"),
    ):
        changed = {"model": {"vq_model": told["model"]["vq_model"] | change}}
        (tmp_path / "titok" / "config.json").write_text(json.dumps(changed))
        with pytest.raises(PrologueError, match=message):
            load_tokenizer(tmp_path / "titok")
    (tmp_path / "titok" / "config.json").unlink()
    with pytest.raises(PrologueError, match=r"its config\.json is not beside it"):
        load_tokenizer(tmp_path / "titok")
    tensors = load_file(TITOK / "model.safetensors")
    save_file(tensors | {"decoder.text_guidance_proj.weight": torch.ones(1)}, tmp_path / "titok" / "model.safetensors")
    with pytest.raises(PrologueError, match="a TA-TiTok, whose decoder reads a text"):
        load_tokenizer(tmp_path / "titok")
    with pytest.raises(PrologueError, match="reads images of 32 px alone, not of 64"):
        load_tokenizer(TITOK, image_size=64)


def test_the_config_of_another_model_is_left_alone(tmp_path: Path) -> None:
    """A folder of weights without a config, beside the configs of another model."""
    shutil.copytree(TAMING / "configs", tmp_path / "configs")
    (tmp_path / "mine").mkdir()
    shutil.copy(TAMING / "ckpts" / "last.ckpt", tmp_path / "mine")
    assert read_checkpoint(tmp_path / "mine").files == (tmp_path / "mine" / "last.ckpt",)
    (tmp_path / "mine").rename(tmp_path / "checkpoints")  # where Lightning keeps what belongs to them
    assert read_checkpoint(tmp_path / "checkpoints").files[1].name == "model.yaml"
    assert read_checkpoint(tmp_path).files[1].name == "model.yaml"


def test_every_file_that_makes_the_model_is_known(tmp_path: Path) -> None:
    found = import_tokenizer(TAMING, None, "signed")
    assert [str(file.relative_to(TAMING)) for file in found.files] == ["ckpts/last.ckpt", "configs/model.yaml"]
    shutil.copy(TAMING / "ckpts" / "last.ckpt", tmp_path / "vqgan.ckpt")
    shutil.copy(TAMING / "configs" / "model.yaml", tmp_path / "vqgan.yaml")
    alone = import_tokenizer(tmp_path / "vqgan.ckpt", None, "signed")
    assert [file.name for file in alone.files] == ["vqgan.ckpt", "vqgan.yaml"]
    assert alone.tokenizer.config == found.tokenizer.config


@pytest.mark.parametrize(("folder", "image_size"), [(LLAMAGEN, 32), (TITOK, 32)], ids=["llamagen", "titok"])
def test_a_prologue_is_learned_on_top_and_visual_tokens_stay(
    folder: Path, image_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image_folder(tmp_path / "photos", per_class=12)
    data = tiny_params().data.model_copy(update={"source": tmp_path / "photos", "val_fraction": 0.4})
    write_shards(data, seed=0, output=tmp_path / "shards")
    own = import_params(import_tokenizer(folder, image_size, "signed"))
    keywords = as_keywords(own)
    alone = run_stages(tiny_params(**keywords), tmp_path / "shards", ["tokenizer", "tokens", "ar"], tmp_path / "alone")
    keywords["prologue__mode"] = "post"
    post = run_stages(tiny_params(**keywords), tmp_path / "shards", ["tokenizer", "attach"], tmp_path / "post")
    (post / "tokenizer").rename(post / "plain")
    (post / "attached").rename(post / "tokenizer")
    run_stages(tiny_params(**keywords), tmp_path / "shards", ["tokens", "ar"], post)
    caches = [TokenCache(run / "tokens", "train") for run in (alone, post)]
    plain, attached = (cache.read(np.arange(len(cache))) for cache in caches)
    assert plain.prologue is None
    assert attached.prologue is not None
    assert attached.prologue.shape == (len(caches[1]), 3)
    assert torch.equal(plain.visual, attached.visual)
    hashes = json.loads((alone / "metrics" / "tokenizer.json").read_text())["imported"]
    assert {Path(name).suffix for name in hashes} <= {".pt", ".safetensors", ".json"}
    assert len(hashes) == len(import_tokenizer(folder, None, "signed").files)


def test_a_source_of_another_kind_is_refused(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = import_params(import_tokenizer(LLAMAGEN, 16, "signed")) | {"tokenizer.source": "taming"}
    keywords = as_keywords(own)
    with pytest.raises(PrologueError, match=r"is of tokenizer\.source llamagen, not taming"):
        run_stages(tiny_params(**keywords), shards, ["tokenizer"])
