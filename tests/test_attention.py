"""Attention of the AR model: weights that are the model's own, the parts of the sequence, and the stage's figures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launches import run_on_two
from preloaded import Preloaded
from tiny import tiny_params
from training_run import run_stages

from prologue.core.files import read_json
from prologue.core.params import TransformerParams
from prologue.core.runtime import start_accelerator
from prologue.evaluation import attention
from prologue.evaluation.attention import evaluate_attention, image_attention, mean_attention, watching
from prologue.measures.attention import attention_shares, attention_to_prologue, parts_read, uniform_attention
from prologue.models import transformer
from prologue.models.ar import ARConfig, ARModel
from prologue.models.saved import load_ar
from prologue.models.vocabulary import Vocabulary
from prologue.tokens.cache import TokenCache

WITH_PROLOGUE = Vocabulary(visual_codebook=9, prologue_codebook=5, visual_tokens=16, prologue_tokens=3, classes=2)
WITHOUT = Vocabulary(visual_codebook=9, prologue_codebook=0, visual_tokens=16, prologue_tokens=0, classes=2)


def random_ar(vocabulary: Vocabulary) -> ARModel:
    torch.manual_seed(0)
    ar = ARModel(ARConfig(vocabulary=vocabulary, transformer=TransformerParams(layers=3, dim=128)))
    for parameter in ar.parameters():  # far from the start, where gates are almost closed
        torch.nn.init.normal_(parameter, std=0.3)
    return ar.eval()


def random_ids(vocabulary: Vocabulary) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    visual = torch.randint(vocabulary.visual_codebook, (5, vocabulary.visual_tokens))
    if not vocabulary.prologue_tokens:
        return None, visual, torch.arange(5) % 2
    return torch.randint(vocabulary.prologue_codebook, (5, vocabulary.prologue_tokens)), visual, torch.arange(5) % 2


@pytest.mark.parametrize("vocabulary", [WITH_PROLOGUE, WITHOUT])
@pytest.mark.parametrize("kernel", ["plain", "fused"])
def test_the_weights_seen_are_those_of_the_forward_pass(
    vocabulary: Vocabulary, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "fused":  # PyTorch's kernel knows nothing of our weights
        monkeypatch.setattr(transformer, "CACHED_SCORES", 0)
    ar, ids = random_ar(vocabulary), random_ids(vocabulary)
    seen: list[torch.Tensor] = []
    passes: list[tuple[Any, torch.Tensor]] = []
    for block in ar.transformer.blocks:
        block.register_forward_hook(lambda _, inputs, output: passes.append((inputs, output)))
    with torch.no_grad():
        plain = ar(*ids)
        passes.clear()
        with watching(ar.transformer, seen.append):
            assert torch.equal(ar(*ids), plain)
        for block, weights, ((x, rotary, _), output) in zip(ar.transformer.blocks, seen, passes, strict=True):
            assert weights.shape == (5, 2, vocabulary.length, vocabulary.length)
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))
            assert not weights.triu(1).any()
            values = block.start(x, rotary)[2]
            torch.testing.assert_close(block.finish(x, weights @ values), output, rtol=1e-5, atol=1e-5)
        ar(*ids)
    assert len(seen) == 3  # nothing is seen outside of the context


@pytest.mark.parametrize(("vocabulary", "width"), [(WITH_PROLOGUE, 4), (WITH_PROLOGUE, None), (WITHOUT, 4)])
def test_every_input_that_a_visual_position_sees_is_in_one_part(vocabulary: Vocabulary, width: int | None) -> None:
    parts = parts_read(vocabulary, width)
    seen = torch.ones(vocabulary.length, vocabulary.length).tril()[vocabulary.prefix :]
    assert torch.equal(torch.stack([part.float() for part in parts.values()]).sum(dim=0), seen)
    assert ("prologue" in parts) == bool(vocabulary.prologue_tokens)


def test_neighbours_are_those_of_the_predicted_token() -> None:
    parts = {part: inputs.nonzero().tolist() for part, inputs in parts_read(WITH_PROLOGUE, 4).items()}
    first = 5  # input of the first visual token, after class, three prologue tokens and EOS
    assert [token for token, _ in parts["left"]] == [token for token in range(16) if token % 4]
    assert all(column == first + token - 1 for token, column in parts["left"])
    assert parts["upper"] == [[token, first + token - 4] for token in range(4, 16)]
    assert {column for _, column in parts["class"]} == {0}
    assert {column for _, column in parts["prologue"]} == {1, 2, 3}
    assert {column for _, column in parts["eos"]} == {4}
    line = parts_read(WITH_PROLOGUE, None)["previous"].nonzero().tolist()
    assert line == [[token, first + token - 1] for token in range(1, 16)]


def test_shares_add_up_and_uniform_attention_goes_by_the_number_of_inputs() -> None:
    shares = attention_shares(uniform_attention(WITH_PROLOGUE.length), WITH_PROLOGUE, 4)
    assert sum(share for (share,) in shares.values()) == pytest.approx(1)
    assert shares["prologue"][0] == pytest.approx(3 * shares["class"][0])
    assert shares["class"][0] == pytest.approx(np.mean([1 / (5 + token) for token in range(16)]))
    upper = torch.zeros(2, 20, 20)
    upper[1, torch.arange(8, 20), torch.arange(5, 17)] = 1  # in layer 2 all go to the upper neighbour
    assert attention_shares(upper, WITH_PROLOGUE, 4)["upper"] == [0, 12 / 16]


def test_heat_lies_where_the_predicted_token_is_and_is_of_the_last_half_of_the_layers() -> None:
    maps = torch.zeros(3, 2, 20, 20)
    maps[0] = 1  # not of the last half
    maps[1, 1, 4 + 6, 1 + 2] = 0.5  # the position that predicts visual token 6 reads prologue token 2
    maps[2, 1, 4 + 6, 1 + 2] = 0.3
    heat = attention_to_prologue(maps, WITH_PROLOGUE, 4)
    assert heat.shape == (2, 3, 4, 4)
    assert heat.nonzero().tolist() == [[1, 2, 1, 2]]
    assert heat.max() == pytest.approx(0.4)


SYSTEMS = {"prologue": {}, "1d": {"prologue__mode": "none", "tokenizer__layout": "1d"}}


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a tokenizer, tokens and an AR model at toy size, of a system with a prologue and one without."""
    folders = {}
    for system, overrides in SYSTEMS.items():
        folders[system] = tmp_path_factory.mktemp(system)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folders[system])
            run_stages(tiny_params(ar__layers=2, **overrides), shards, ["tokenizer", "tokens", "ar"])
    return folders


def draw(folder: Path, shards: Path, figures: Path) -> dict[str, Any]:
    return evaluate_attention(folder / "ar", folder / "tokenizer", folder / "tokens", shards, figures)


def test_maps_do_not_depend_on_the_batches(trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ar, cache = load_ar(trained["prologue"] / "ar"), TokenCache(trained["prologue"] / "tokens", "val")
    images = np.arange(len(cache))
    monkeypatch.setattr(attention, "BATCH", 3)
    maps = mean_attention(ar, cache, images, start_accelerator())
    assert maps.dtype == torch.float64
    torch.testing.assert_close(maps, image_attention(ar, cache, images).double().mean(1), rtol=0, atol=1e-6)
    assert not maps.requires_grad


def test_the_stage_draws_the_same_for_the_same_and_fewer_figures_without_a_prologue(
    trained: dict[str, Path], shards: Path, tmp_path: Path
) -> None:
    metrics = draw(trained["prologue"], shards, tmp_path / "figures")
    assert metrics["images"] == 10
    assert [key for key in metrics if key != "images"] == [
        f"attention_to_{part}" for part in ("class", "prologue", "eos", "left", "upper", "other")
    ]
    assert sum(value["mean"] for key, value in metrics.items() if key != "images") == pytest.approx(1, abs=1e-4)
    assert all(len(value["by_layer"]) == 2 for key, value in metrics.items() if key != "images")
    names = {"attention_maps", "attention_shares", "prologue_attention"}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{n}.{k}" for n in names for k in ("svg", "png")
    }

    assert draw(trained["prologue"], shards, tmp_path / "again") == metrics
    for path in (tmp_path / "figures").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name

    line = draw(trained["1d"], shards, tmp_path / "figures")  # in place of the other system's figures
    assert list(line)[1:] == [f"attention_to_{part}" for part in ("class", "previous", "other")]
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"attention_maps", "attention_shares"}


def test_two_processes_measure_what_one_does(
    trained: dict[str, Path], shards: Path, tmp_path: Path, preloaded: Preloaded
) -> None:
    alone = draw(trained["prologue"], shards, tmp_path / "one")
    code = (
        "import json\nfrom pathlib import Path\nfrom prologue.core.launch import rank\n"
        "from prologue.evaluation.attention import evaluate_attention\n"
        "metrics = evaluate_attention(*map(Path, sys.argv[1:]), Path('two'))\n"
        "Path(f'metrics{rank()}.json').write_text(json.dumps(metrics))\n"
    )
    folder = trained["prologue"]
    run_on_two(preloaded, tmp_path, code, folder / "ar", folder / "tokenizer", folder / "tokens", shards)
    for process in (0, 1):
        together = read_json(tmp_path / f"metrics{process}.json")
        assert together.keys() == alone.keys()
        for part in alone.keys() - {"images"}:
            assert together[part]["by_layer"] == pytest.approx(alone[part]["by_layer"], abs=2e-5)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )
