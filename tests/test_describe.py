"""The sizes of the published models, told without building them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import ROOT

from prologue.cli import main as cli
from prologue.core.errors import PrologueError
from prologue.core.params import Params, TransformerParams
from prologue.core.variants import apply_overrides, load_variants
from prologue.models.ar import ARConfig, ARModel
from prologue.models.saved import parameter_count
from prologue.models.tokenizer import Tokenizer
from prologue.pipeline.describe import describe
from prologue.pipeline.memory import LOGITS, estimate
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


PEAK = """
import re, sys
from pathlib import Path
import torch
from tiny import tiny_params
from prologue.core.params import TransformerParams
from prologue.models import transformer
from prologue.models.ar import ARConfig, ARModel
from prologue.models.vocabulary import Vocabulary
from prologue.pipeline.memory import _of_ar

transformer.CACHED_SCORES = 0  # the attention kernel that keeps no weights, as on GPUs
images, tokens, layers, dim = map(int, sys.argv[1:])
torch.set_num_threads(1)
vocabulary = Vocabulary(visual_codebook=512, prologue_codebook=128, visual_tokens=tokens, prologue_tokens=8, classes=10)
ar = ARModel(ARConfig(vocabulary=vocabulary, transformer=TransformerParams(layers=layers, dim=dim)))
counted = _of_ar(ar, gpus=1)
ids = torch.zeros(images, 8, dtype=torch.long), torch.zeros(images, tokens, dtype=torch.long)
ar.losses(*ids, torch.zeros(images, dtype=torch.long)).mean().backward()
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]  # of this program alone
print(int(peak) * 1024, counted.kept, counted.logits)
"""


def test_the_memory_of_an_image_is_what_a_training_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The growth of a process's peak with the batch, on the CPU, against what is counted there of the same model."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "peak.py").write_text(PEAK)
    own = {"ar.layers": 4, "ar.dim": 192, "precision": "fp32"}
    memory, images = estimate(apply_overrides(own), classes=10, gpus=1)["ar"]
    assert images == apply_overrides({}).ar.batch
    told = []
    for count in (32, 160):
        command = [sys.executable, str(tmp_path / "peak.py"), str(count), "64", "4", "192"]
        env = os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT / 'src'}", "PROLOGUE_KERNELS": "off"}  # as GPUs
        printed = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
        told.append([int(number) for number in printed.split()])
    (few, kept, logits), (more, *_) = told
    assert (more - few) / 128 == pytest.approx(kept + LOGITS * logits, rel=0.25)
    assert logits == memory.logits
    assert 0.8 * kept < memory.kept < kept, "on a CPU PyTorch's norms keep a tensor more"


def test_the_micro_batch_that_fits_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    params = variant(monkeypatch, "imagenet_b_b")
    one, eight = (estimate(params, CLASSES, gpus) for gpus in (1, 8))
    assert list(one) == ["tokenizer", "ar"]
    assert one["ar"][1] == 8 * eight["ar"][1] == params.ar.batch
    parameters = PUBLISHED["imagenet_b_b"]["AR"] * 1e6
    assert one["ar"][0].state == pytest.approx(22 * parameters, rel=0.03), "weight, gradient, moments, EMA, bf16 copy"
    assert eight["ar"][0].state - one["ar"][0].state == pytest.approx(4 * parameters, rel=0.02), "what is exchanged"
    memory, images = eight["ar"]
    assert memory.recomputed < memory.kept / 4
    fitting = [memory.fitting(images, card) for card in (24, 40, 80)]
    assert sorted(fitting) == fitting
    for card, size in zip((24, 40, 80), fitting, strict=True):
        assert memory.total(size) <= card * 1e9
        assert images % size == 0 if size else memory.total(1) > card * 1e9
    monkeypatch.setattr("sys.argv", ["prologue", "describe", "--gpus", "8"])
    cli.main()
    printed = capsys.readouterr().out
    assert "fits" in printed
    assert "PROLOGUE_MICRO_BATCH" in printed
    for gpus in (3, 64):
        with pytest.raises(PrologueError, match=f"a batch of 32 cannot be divided over {gpus} processes"):
            estimate(apply_overrides({}), 10, gpus)


def test_an_imported_tokenizer_is_told_from_the_params(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["prologue", "describe"])
    monkeypatch.chdir(tmp_path)
    for source in ("train", "titok"):
        Path("params.yaml").write_text(
            (ROOT / "params.yaml").read_text().replace("source: train", f"source: {source}", 1)
        )
        cli.main()
        assert ("is imported" in capsys.readouterr().out) == (source == "titok")


@pytest.mark.parametrize("name", ["one_gpu_64", "one_gpu_128", "one_gpu_256"])
def test_the_scales_of_one_gpu_fit_24_gb(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params = variant(monkeypatch, name)
    parts = {part.name: part.parameters for part in describe(params, 100).parts}
    assert 45e6 < sum(parts[part] for part in ("encoder", "decoder", "AR")) < 65e6
    for memory, images in estimate(params, 100, 1).values():  # as the README says
        assert memory.fitting(images, 24) >= (64 if params.data.image_size == 256 else 128)
