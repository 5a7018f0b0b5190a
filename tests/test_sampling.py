"""Sampling: what the cached sampler draws, that an image depends on nothing but itself, and the stage's files."""

import gc
import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from calls import record_calls
from image_files import class_files, write_folder
from image_files import params as photo_params
from launches import run_on_two
from PIL import Image
from preloaded import Preloaded
from small_models import make_ar, make_tokenizer
from tiny import tiny_params

from prologue.core.errors import PrologueError
from prologue.core.files import write_json
from prologue.core.params import Params, TransformerParams
from prologue.core.precision import settle
from prologue.core.recipe import read_recipe
from prologue.data.shards import write_shards
from prologue.data.transforms import TEN_CROP_SCALE, center_crop, crop_views
from prologue.models.ar import ARConfig, ARModel
from prologue.models.saved import load_ar, load_tokenizer
from prologue.models.tokenizer import to_uint8
from prologue.models.transformer import Block
from prologue.models.vocabulary import Vocabulary
from prologue.models.weights import weights_sha256
from prologue.pipeline import samples as samples_stage
from prologue.pipeline.samples import make_samples
from prologue.sampling import Choice, Choices, Guidance, generate, generation, graphs
from prologue.sampling import images as image_sampling
from prologue.sampling.decoding import Decoder
from prologue.sampling.generation import TokenSampler
from prologue.sampling.images import token_samplers
from prologue.sampling.independent import independent_ids
from prologue.sampling.prologues import prologues_of, resample_visual, swap_prologues
from prologue.sampling.samples import labels_like
from prologue.sampling.watermark import Watermark
from prologue.tokens.cache import TokenCache

NOTHING_ADOPTED = Path("nothing_adopted")
GREEDY = Choices(Choice(temperature=0), Choice(temperature=0))


@pytest.mark.parametrize("mode", ["joint", "none"])
def test_cached_greedy_sampling_agrees_with_the_full_forward_pass(mode: str) -> None:
    ar = make_ar(make_tokenizer(prologue__mode=mode))
    vocabulary = ar.vocabulary
    classes, guidance = torch.tensor([0, 1, 1]), Guidance(prologue=0.7, visual=4.0, power=0.3)
    tokens = generate(ar, classes, guidance, GREEDY)
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
    assert held.prologue is not None
    assert torch.equal(held.prologue, all_at_once.prologue)
    assert not torch.equal(held.visual, all_at_once.visual)


def test_low_temperature_draws_the_most_likely_ids_and_seeds_change_high_ones() -> None:
    ar = make_ar(make_tokenizer())
    classes = torch.zeros(8, dtype=torch.long)
    seeds = [(0, i) for i in range(8)]
    cold = generate(ar, classes, seeds=seeds, choices=Choices(Choice(1e-6), Choice(1e-6)))
    greedy = generate(ar, classes, seeds=seeds, choices=GREEDY)
    assert torch.equal(cold.visual, greedy.visual)
    hot = generate(ar, classes, seeds=seeds, choices=Choices(Choice(5.0), Choice(5.0)))
    assert len(hot.visual.unique(dim=0)) == 8


def test_guidance_schedule_is_constant_then_rises_from_one() -> None:
    vocabulary = Vocabulary(visual_codebook=4, prologue_codebook=4, visual_tokens=16, prologue_tokens=3, classes=2)
    guidance = Guidance(prologue=0.7, visual=3.0, power=1.0)
    scales = [guidance.scale(position, vocabulary) for position in range(vocabulary.length)]
    assert scales[:3] == [0.7] * 3
    assert scales[3] == 1.0
    assert scales[3:] == sorted(scales[3:])
    assert scales[4] == pytest.approx(2 - math.cos(math.pi / 17))  # EOS counts into the segment's length


def test_linear_and_constant_schedules() -> None:
    vocabulary = Vocabulary(visual_codebook=4, prologue_codebook=4, visual_tokens=7, prologue_tokens=4, classes=2)
    guidance = Guidance(2.0, 3.0, power=2.0, schedule="linear", prologue_schedule="linear")
    scales = [guidance.scale(position, vocabulary) for position in range(vocabulary.length)]
    assert scales[:4] == [1.0, 1.25, 1.5, 1.75]
    assert scales[4:] == [1 + 2 * (step / 8) ** 2 for step in range(8)]
    assert Guidance(2.0, 3.0, schedule="constant").scale(9, vocabulary) == 3.0


@pytest.mark.parametrize("choice", [Choice(0.7), Choice(1.3, top_k=3), Choice(1.0, top_p=0.6), Choice(0.9, 4, 0.7)])
def test_ids_are_drawn_as_often_as_their_probability_says(choice: Choice) -> None:
    logits = torch.tensor([2.0, 0.5, 1.5, -1.0, 0.0, 1.0])
    expected = (logits / choice.temperature).softmax(0).double()
    if choice.top_k:
        expected[expected < expected.topk(choice.top_k).values[-1]] = 0
        expected /= expected.sum()
    order = expected.argsort(descending=True)
    kept = int((expected[order].cumsum(0) - expected[order] < choice.top_p).sum())
    expected[order[kept:]] = 0
    expected /= expected.sum()
    uniforms = torch.rand(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = choice.draw(logits.expand(len(uniforms), -1), uniforms)
    share = torch.bincount(drawn, minlength=6).double() / len(drawn)
    torch.testing.assert_close(share, expected, rtol=0, atol=5e-3)
    assert not share[expected == 0].any()


@pytest.mark.parametrize("guidance", [None, Guidance(prologue=1.5, visual=3.0, power=0.5)])
def test_the_same_image_whatever_is_drawn_beside_it(guidance: Guidance | None) -> None:
    torch.manual_seed(0)
    vocabulary = Vocabulary(visual_codebook=512, prologue_codebook=128, visual_tokens=24, prologue_tokens=8, classes=10)
    ar = ARModel(ARConfig(vocabulary=vocabulary, transformer=TransformerParams(layers=3, dim=192)))
    for parameter in ar.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    classes, seeds = torch.arange(70) % 10, [(7, image) for image in range(70)]
    together = generate(ar, classes, guidance, seeds=seeds)
    assert together.prologue is not None
    torch.set_num_threads(2)  # nor does the number of threads matter to the blocks' shape
    for start, stop in ((0, 1), (5, 8), (3, 68), (17, 70)):
        part = generate(ar, classes[start:stop], guidance, seeds=seeds[start:stop])
        assert part.prologue is not None
        assert torch.equal(part.prologue, together.prologue[start:stop])
        assert torch.equal(part.visual, together.visual[start:stop])


def test_bf16_logits_are_those_of_fp32_but_for_rounding() -> None:
    ar = make_ar(make_tokenizer())
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        decoder = Decoder(ar, 2, dtype)
        with torch.inference_mode():
            x = ar.class_embedding(torch.tensor([0, 1]))
            found.append([decoder.logits(x, position, ar.vocabulary.ids_at(position)) for position in range(3)])
    for exact, rounded in zip(*found, strict=True):
        assert 1e-4 < (rounded - exact).norm() / exact.norm() < 0.03


@pytest.mark.parametrize("guidance", [None, Guidance(0.7, 4.0, power=0.3)], ids=["plain", "guided"])
@pytest.mark.parametrize("mode", ["joint", "none"])
@pytest.mark.parametrize("marked", [False, True], ids=["", "marked"])
def test_the_steps_that_a_gpu_captures_draw_the_same_ids(
    mode: str, guidance: Guidance | None, marked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fixed shapes, the position in a tensor and a masked cache of a few lengths; here run one by one."""
    monkeypatch.setattr(graphs, "BUCKET", 6)
    tokenizer = make_tokenizer(prologue__mode=mode)
    ar, watermark = make_ar(tokenizer), Watermark(b"a key", tokenizer, 3.0) if marked else None
    choices = Choices(Choice(top_k=5), Choice(temperature=0.9))
    sampler = TokenSampler(ar, guidance, choices, torch.float32, watermark)
    classes, seeds = torch.arange(sampler.block) % 2, [(0, image) for image in range(sampler.block)]
    tokens = sampler.sample(classes, seeds)
    labels = classes if guidance is None else torch.cat((classes, torch.full_like(classes, ar.vocabulary.null_class)))
    steps, uniforms = (
        graphs.StaticSteps(sampler.decoder, sampler.block, sampler.guidance, sampler.choices, sampler.watermark),
        generation.draw_uniforms(seeds, ar.vocabulary.length),
    )
    first = sampler.decoder.ar.class_embedding(labels)
    for prologue in (None, tokens.prologue):
        drawn = steps.sample(first, uniforms, prologue)
        assert torch.equal(drawn, ar.vocabulary.sequence(tokens.prologue, tokens.visual))
    if mode == "joint":
        assert tokens.prologue is not None
        held = steps.sample(first, uniforms, torch.ones_like(tokens.prologue))
        assert (held[:, : ar.vocabulary.prologue_tokens] == ar.vocabulary.prologue_ids.start + 1).all()
        assert not torch.equal(held, drawn)


def test_a_decoder_takes_its_copy_of_the_weights_with_it() -> None:
    """Whoever draws at many settings would wait for Python's collector with memory that is full."""
    gc.disable()
    try:
        decoder = Decoder(make_ar(make_tokenizer()), rows=2, dtype=torch.float32)
        copied = [weakref.ref(block) for block in decoder.blocks]
        del decoder
        assert [block() for block in copied] == [None] * len(copied)
    finally:
        gc.enable()


def test_logits_that_are_not_finite_draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Softmax of NaN would draw the last id every time, and images would be made of it."""
    ar = make_ar(make_tokenizer())
    generate(ar, torch.tensor([0]))
    block = ar.transformer.blocks[-1]
    assert isinstance(block, Block)
    block.feed_forward.fc1.weight.data[0, 0] = math.nan
    with pytest.raises(PrologueError, match="logits are not finite"):
        generate(ar, torch.tensor([0]))
    sampler = TokenSampler(ar, None, Choices(), torch.float32)
    steps = graphs.StaticSteps(sampler.decoder, sampler.block, None, Choices())
    uniforms = torch.zeros(sampler.block, ar.vocabulary.length, dtype=torch.float64)
    with torch.no_grad():
        steps.sample(ar.class_embedding(torch.zeros(sampler.block, dtype=torch.long)), uniforms, None)
    assert steps.check.isnan()


def test_images_are_decoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of 512 images would take a convolutional decoder 86 GB."""
    tokenizer = make_tokenizer()
    visual = torch.arange(150)[:, None].expand(-1, tokenizer.visual_tokens) % 32
    decoded = record_calls(monkeypatch, tokenizer, "decode")
    pixels = image_sampling.decode(tokenizer, visual)
    assert [len(ids) for (ids,) in decoded] == [64, 64, 22]
    expected = torch.cat([to_uint8(tokenizer.decode(ids[None])) for ids in visual])
    assert np.abs(pixels.astype(int) - expected.permute(0, 2, 3, 1).numpy()).max() <= 1


def test_prologues_are_held_taken_and_swapped() -> None:
    tokenizer = make_tokenizer().eval()
    ar = make_ar(tokenizer)
    sampler = TokenSampler(ar, None, GREEDY, torch.float32)
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    classes = torch.tensor([0, 1])
    prologues = prologues_of(tokenizer, pixels)
    encoded = tokenizer.encode(pixels).prologue
    assert encoded is not None
    assert torch.equal(prologues, encoded)
    tokens = sampler.sample(classes, [(0, 0), (0, 1)], prologues)
    twice = resample_visual(sampler, prologues, classes, 2, [(1, n) for n in range(4)])
    assert torch.equal(twice, tokens.visual.repeat_interleave(2, dim=0))  # greedy: the prologue decides
    swapped = swap_prologues(sampler, tokens, classes, [(2, 0), (2, 1)])
    expected = sampler.sample(classes, [(3, 0), (3, 1)], prologues.flip(0)).visual
    assert torch.equal(swapped, expected)


def test_independent_ids_come_as_often_as_at_their_position_in_their_class(trained: Path) -> None:
    cache = TokenCache(trained / "tokens", "train")
    labels = np.arange(4000) % 2
    ids = independent_ids(cache, labels, seed=0)
    assert torch.equal(ids, independent_ids(cache, labels, seed=0))
    for label in (0, 1):
        own = cache.read(np.flatnonzero(cache.labels == label)).visual
        for position in (0, 7):
            shares = [torch.bincount(x[:, position], minlength=32) / len(x) for x in (own, ids[labels == label])]
            assert (shares[0] - shares[1]).abs().max() < 0.05
    cache.labels = np.arange(len(cache))  # a class of one image takes those of all
    assert len({tuple(image) for image in independent_ids(cache, labels[:50] * 0, seed=0).tolist()}) == 50
    whole = {tuple(image) for image in cache.read(np.arange(len(cache))).visual.tolist()}
    assert sum(tuple(image) in whole for image in ids.tolist()) < len(ids) / 10, "ids of one image were kept together"


def test_ids_of_ten_crops_are_of_the_centre_unless_others_are_asked_for(tmp_path: Path) -> None:
    vocabulary = Vocabulary(visual_codebook=32, visual_tokens=2, prologue_codebook=0, prologue_tokens=0, classes=1)
    photo = Image.effect_noise((40, 30), 90).convert("RGB")
    (tmp_path / "train").mkdir()
    for scheme in ("center", "flip", "ten"):
        views = crop_views(photo, 16, scheme)
        ids = np.tile(np.arange(len(views), dtype=np.uint16)[None, :, None], (1, 1, 2))
        np.save(tmp_path / "train" / "000000.npy", ids)
        np.save(tmp_path / "train" / "000000.labels.npy", np.zeros(1, np.int64))
        counts = {"train": {"images": 1}}
        write_json(tmp_path / "manifest.json", {"vocabulary": vocabulary.model_dump(), "counts": counts})
        view = int(TokenCache(tmp_path, "train").read(np.zeros(1, np.int64)).visual[0, 0])
        size = round(16 * TEN_CROP_SCALE) if scheme == "ten" else 16
        square, margin = center_crop(photo, size), (size - 16) // 2
        assert (views[view] == square[margin : margin + 16, margin : margin + 16]).all(), scheme


def test_classes_are_drawn_as_often_as_in_what_samples_are_compared_with() -> None:
    """Two classes, 90 and 10 images: a perfect generator that draws them alike is as far as a bad one."""
    names, even = ["a", "b", "c"], np.arange(30) % 3
    assert labels_like(even, names, None, 8).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert labels_like(even, names, ["c", "a"], 4).tolist() == [0, 2, 0, 2]
    many = labels_like(np.arange(50_000) % 1000, [str(name) for name in range(1000)], None, 3000)
    assert many.tolist() == [*range(1000)] * 3
    uneven = labels_like(np.repeat([0, 1, 2], [90, 10, 0]), names, None, 200)
    assert np.bincount(uneven, minlength=3).tolist() == [180, 20, 0]
    assert np.bincount(uneven[:50], minlength=3).tolist() == [45, 5, 0], "they are mixed from the start"
    with pytest.raises(PrologueError, match="none of these has an image"):
        labels_like(np.zeros(5, np.int64), names, ["b"], 4)
    with pytest.raises(PrologueError, match="no class 'd'"):
        labels_like(even, names, ["d"], 4)


def write(params: Params, trained: Path, shards: Path, name: str) -> dict[str, Any]:
    models = (trained / "ar", trained / "tokenizer", trained / "tokens")
    write_json(NOTHING_ADOPTED / "adopted.json", {})
    return make_samples(params, *models, shards, NOTHING_ADOPTED, Path(name), Path(f"{name}_figures"))


def test_the_stage_writes_adms_layout_figures_and_files(
    trained: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    metrics = write(tiny_params(sampling__images=21, sampling__files="png"), trained, shards, "out")
    assert metrics["images_per_class"] == [10, 11]
    with np.load("out/cfg.npz") as samples:
        assert (samples["arr_0"].shape, samples["arr_0"].dtype) == ((21, 16, 16, 3), np.uint8)
        assert samples["arr_1"].tolist() == [n % 2 for n in range(21)]
        assert np.array_equal(np.asarray(Image.open("out/cfg/000020.png")), samples["arr_0"][20])
    sets = ["cfg.npz", "independent.npz", "no_cfg.npz", "swapped.npz"]
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(["cfg", "no_cfg", *sets])
    tokenizer, training = load_tokenizer(trained / "tokenizer"), TokenCache(trained / "tokens", "train")
    with np.load("out/independent.npz") as independent:
        ids = independent_ids(training, independent["arr_1"], seed=0)
        assert np.array_equal(independent["arr_0"], image_sampling.decode(tokenizer, ids))
    with np.load("out/swapped.npz") as swapped:
        assert len(swapped["arr_0"]) == 200
        assert (swapped["arr_1"] + swapped["arr_2"] == 1).all()
    weights = weights_sha256(tokenizer, load_ar(trained / "ar"))
    for name in ("out/cfg.npz", "out/swapped.npz", "out/cfg/000020.png", "out_figures/held_prologue.png"):
        recipe, source = read_recipe(Path(name))
        assert recipe["seed"] == 0
        assert recipe["weights_sha256"] == weights
        assert recipe["settings"]["cfg"]["visual"]["guidance"] == 2
        assert source is None or source.endswith("/trainedAlgorithmicMedia")
    assert str(read_recipe(Path("out_figures/real_prologue.png"))[1]).endswith("/compositeWithTrainedAlgorithmicMedia")
    pictures = {path.stem for path in Path("out_figures").iterdir()}
    assert pictures == {"samples_cfg", "samples_no_cfg", "held_prologue", "real_prologue", "swapped_prologues"}

    write(tiny_params(sampling__images=10, sampling__classes=["dusk"]), trained, shards, "dusk")
    assert set(np.load("dusk/cfg.npz")["arr_1"].tolist()) == {1}
    with pytest.raises(PrologueError, match=r"there is no class 'noon'; known: dawn, dusk"):
        write(tiny_params(sampling__classes=["noon"]), trained, shards, "noon")


def test_real_prologues_are_of_classes_that_have_real_images(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = write_folder(class_files(2, "train/dawn", "train/dusk", "val/dusk"), tmp_path / "photos")
    write_shards(photo_params(photos), 0, tmp_path / "o")
    write(tiny_params(sampling__images=10, sampling__rows=1), trained, tmp_path / "o", "out")
    assert Path("out_figures/real_prologue.png").is_file()


def test_a_killed_run_goes_on_and_two_processes_draw_the_same(
    trained: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preloaded: Preloaded
) -> None:
    monkeypatch.chdir(tmp_path)
    params = tiny_params(sampling__images=150)
    write(params, trained, shards, "whole")
    with monkeypatch.context() as patch:
        record_calls(patch, image_sampling, "decode", dies_after=2)
        with pytest.raises(KeyboardInterrupt):
            write(params, trained, shards, "again")
    drawn = record_calls(monkeypatch, image_sampling, "decode")
    write(params, trained, shards, "again")
    assert len(drawn) == 3 + 3 - 2  # blocks of 64 in each of two runs
    with monkeypatch.context() as patch:
        record_calls(patch, image_sampling, "decode", dies_after=2)
        with pytest.raises(KeyboardInterrupt):
            write(params, trained, shards, "elsewhere")
    with monkeypatch.context() as patch:
        patch.setattr(generation, "block_size", lambda ar: 48)  # as on a GPU with less memory
        write(params, trained, shards, "elsewhere")
    code = (
        "import os\nfrom pathlib import Path\nfrom tiny import tiny_params\nfrom prologue.sampling import generation\n"
        "from prologue.pipeline.samples import make_samples\n"
        "generation.block_size = lambda ar: (48, 64)[int(os.environ['RANK'])]  # GPUs of unlike memory\n"
        "make_samples(tiny_params(sampling__images=150), *map(Path, sys.argv[1:]), Path('two'), Path('two_figures'))\n"
    )
    models = (trained / "ar", trained / "tokenizer", trained / "tokens")
    run_on_two(preloaded, tmp_path, code, *models, shards, NOTHING_ADOPTED)
    for run in ("cfg", "no_cfg"):
        expected = np.load(f"whole/{run}.npz")["arr_0"]
        for other in ("again", "elsewhere", "two"):
            assert np.array_equal(np.load(f"{other}/{run}.npz")["arr_0"], expected), (run, other)


def test_samples_outlive_a_stage_that_ends_after_drawing_them(
    trained: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC removes what a stage that failed has written to its place."""
    monkeypatch.chdir(tmp_path)
    params = tiny_params(sampling__images=10)
    with monkeypatch.context() as patch:
        record_calls(patch, samples_stage, "_write_pictures", dies_after=0)
        with pytest.raises(KeyboardInterrupt):
            write(params, trained, shards, "out")
    assert not Path("out").exists()
    assert write(params, trained, shards, "out")["images_per_second"] == {}
    assert Path("out/cfg.npz").is_file()


def test_the_params_of_a_run_reach_the_sampler(trained: Path) -> None:
    overrides = {"sampling__cfg__visual__guidance": 3.5, "sampling__no_cfg__prologue__top_k": 2}
    params = settle(tiny_params(**overrides))
    samplers = token_samplers(load_ar(trained / "ar"), params.sampling)
    assert samplers["cfg"].guidance.visual == 3.5
    assert samplers["no_cfg"].guidance is None
    assert samplers["no_cfg"].choices.prologue.top_k == 2
