"""Metrics against independent float64 computations, and the evaluation stages on a tiny dataset."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import linalg, ndimage
from tiny import ROOT

from prologue.core.errors import PrologueError
from prologue.core.files import sha256
from prologue.core.params import Params
from prologue.core.params_file import load_params
from prologue.core.recipe import read_recipe
from prologue.core.runtime import start_accelerator
from prologue.data.images import ImageShards
from prologue.data.order import evenly_spaced
from prologue.data.shards import write_shards
from prologue.evaluation.generation import evaluate_generation, floor
from prologue.evaluation.image_sets import ArrayImages, NpzImages
from prologue.evaluation.reconstruction import distance_deviation, evaluate_reconstruction
from prologue.evaluation.reference import (
    Reference,
    compute_reference,
    load_reference,
    measure_reference,
    save_reference,
)
from prologue.frozen.extractor import Extractor
from prologue.frozen.perceptual import PerceptualLoss
from prologue.measures import fidelity, intervals
from prologue.measures.accuracy import top_share
from prologue.measures.codebooks import codebook_usage
from prologue.measures.images import image_psnr, image_ssim
from prologue.measures.intervals import frechet_deviations, interval, kernel_deviations, paired_deviation
from prologue.models.config import PrologueConfig, TokenizerConfig
from prologue.models.saved import load_tokenizer, save_model
from prologue.models.tokenizer import Tokenizer, to_uint8
from prologue.probe import fast
from prologue.probe.fast import classify
from prologue.probe.run import run_probe
from prologue.probe.token_means import split_means

Points = NDArray[np.float64]
TRAIN, VAL = 16, 8  # images per class


def features(count: int, seed: int, dim: int = 12) -> torch.Tensor:
    mix = np.random.default_rng(0).normal(size=(dim, dim))
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, dim)) @ mix + 0.1 * seed).float()


def test_frechet_distance_equals_a_float64_computation() -> None:
    a, b = features(200, 1), features(150, 2)
    x, y = a.double().numpy(), b.double().numpy()
    mean = x.mean(0) - y.mean(0)
    sx, sy = np.cov(x.T), np.cov(y.T)
    root = linalg.sqrtm(sx)
    expected = mean @ mean + np.trace(sx + sy) - 2 * np.trace(linalg.sqrtm(root @ sy @ root)).real
    measured = fidelity.frechet_distance(fidelity.statistics(a), fidelity.statistics(b))
    assert measured == pytest.approx(expected, rel=1e-6)


def test_inception_score_equals_a_float64_computation() -> None:
    logits = features(200, 3)
    order = np.random.RandomState(2020).permutation(200)
    p = np.exp(logits.double().numpy()[order])
    p /= p.sum(1, keepdims=True)
    scores = [np.exp((q * np.log(q / q.mean(0))).sum(1).mean()) for q in np.split(p, 10)]
    mean, deviation = fidelity.inception_score(logits)
    assert mean == pytest.approx(np.mean(scores), rel=1e-6)
    assert deviation == pytest.approx(np.std(scores), rel=1e-6)


def test_precision_and_recall_equal_a_computation_by_definition_and_are_not_swapped() -> None:
    real = features(120, 1)
    generated = 0.3 * features(80, 2)  # bunched within the real ones: precise, of low recall

    def inside(points: Points, others: Points) -> float:
        radii = np.sort(np.linalg.norm(others[:, None] - others[None], axis=2), axis=1)[:, 3]
        return float((np.linalg.norm(points[:, None] - others[None], axis=2) <= radii).any(1).mean())

    x, y = generated.double().numpy(), real.double().numpy()
    precision, recall = fidelity.precision_recall(generated, real, neighbours=3)
    assert precision == pytest.approx(inside(x, y), rel=1e-6)
    assert recall == pytest.approx(inside(y, x), rel=1e-6)
    assert precision > recall


def test_kid_equals_a_float64_computation_by_definition() -> None:
    real, generated = features(40, 1), features(30, 2)
    x, y = generated.double().numpy(), real.double().numpy()
    rng, values = np.random.RandomState(2020), []
    for _ in range(fidelity.KID_SUBSETS):  # a subset of the larger side, all of the smaller one
        a, b = x[rng.choice(30, 30, replace=False)], y[rng.choice(40, 30, replace=False)]
        kernels = [(p @ q.T / 12 + 1) ** 3 for p, q in ((a, a), (b, b), (a, b))]
        own = [(k.sum() - np.trace(k)) / (30 * 29) for k in kernels[:2]]
        values.append(sum(own) - 2 * kernels[2].mean())
    mean, deviation = fidelity.kernel_distance(generated, real)
    assert mean == pytest.approx(np.mean(values), rel=1e-6)
    assert deviation == pytest.approx(np.std(values), rel=1e-6)


def test_the_interval_of_a_distance_is_as_wide_as_distances_of_other_images_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    real = fidelity.statistics(torch.randn(4000, 6, generator=generator))
    measured, deviations = [], []
    for _ in range(80):
        drawn = 1.3 * torch.randn(150, 6, generator=generator) + 0.4
        measured.append(fidelity.frechet_distance(fidelity.statistics(drawn), real))
        deviations += frechet_deviations(drawn, [real, real])[:1]
    assert np.mean(deviations) == pytest.approx(np.std(measured), rel=0.25)
    ends = interval(5.0, 2.0)
    assert ends == pytest.approx({"low": 5 - 1.96 * 2, "high": 5 + 1.96 * 2})


def test_the_interval_of_a_small_distance_is_too_wide_rather_than_too_narrow() -> None:
    """Of few images in many directions, as a generator's gap is near its floor."""
    generator = torch.Generator().manual_seed(0)
    real = fidelity.statistics(torch.randn(4000, 24, generator=generator))
    for shift, least, most in ((0.0, 1.8, 3.2), (0.4, 1.15, 2.0), (1.5, 0.7, 1.3)):
        measured, deviations = [], []
        for number in range(40):
            drawn = torch.randn(96, 24, generator=generator)
            drawn[:, :12] += shift
            measured.append(fidelity.frechet_distance(fidelity.statistics(drawn), real))
            deviations += frechet_deviations(drawn, [real]) if number < 12 else []
        assert least < np.mean(deviations) / np.std(measured) < most, shift


def test_the_interval_of_a_reconstruction_distance_draws_pairs() -> None:
    """Here, where copies are close, one that draws one side alone is several times too wide; it can be too narrow."""
    generator = torch.Generator().manual_seed(0)
    measured, deviations, alone = [], [], []
    for _ in range(80):
        real = torch.randn(150, 6, generator=generator)
        copies = 0.9 * real + 0.1 * torch.randn(150, 6, generator=generator)
        known = fidelity.statistics(real)
        measured.append(fidelity.frechet_distance(fidelity.statistics(copies), known))
        deviations.append(paired_deviation(copies, real))
        alone += frechet_deviations(copies, [known])
    assert np.mean(deviations) == pytest.approx(np.std(measured), rel=0.25)
    assert np.mean(alone) > 3 * np.mean(deviations)
    halves = [Reference(fidelity.statistics(kind), kind[::2], {"images": 150}) for kind in (copies, real)]
    of_half = distance_deviation(*halves)
    assert of_half == pytest.approx(paired_deviation(copies, real), rel=0.35)
    assert of_half == pytest.approx(paired_deviation(copies[::2], real[::2]) / np.sqrt(2))


def test_the_floor_is_the_distance_of_as_many_others_of_the_same_kind() -> None:
    """However few of the reconstructions have features, here 400 of 1,000."""
    generator = torch.Generator().manual_seed(0)
    known = torch.randn(1000, 12, generator=generator)
    reconstructions = Reference(fidelity.statistics(known), known[:400], {"images": 1000})
    others = [torch.randn(600, 12, generator=generator) for _ in range(40)]
    measured = [fidelity.frechet_distance(fidelity.statistics(own), reconstructions.statistics) for own in others]
    assert floor(reconstructions, 600) == pytest.approx(np.mean(measured), rel=0.25)


def test_the_interval_of_kid_is_as_wide_as_values_of_other_images_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(900, 6, generator=generator)
    measured, deviations = [], []
    for _ in range(80):
        drawn = 1.3 * torch.randn(900, 6, generator=generator) + 0.4
        measured.append(fidelity.kernel_distance(drawn, real)[0])  # of one subset, all of both
        deviations += kernel_deviations(drawn, [real])
    assert np.mean(deviations) == pytest.approx(np.std(measured), rel=0.25)


def test_the_interval_of_kid_of_many_images_is_the_same_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples' classes take turns: those of every other image are not all."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(500, 6, generator=generator)
    drawn = torch.randn(1000, 6, generator=generator)
    drawn[::2] += 1.5
    (whole,) = kernel_deviations(drawn, [real])
    monkeypatch.setattr(intervals, "PARTS", 500)
    for order in (drawn, drawn.roll(1, 0)):
        assert kernel_deviations(order, [real])[0] == pytest.approx(whole, rel=0.1)


def test_distance_of_fewer_images_than_features_is_exact() -> None:
    """Singular covariances: the trace of the root from the singular values of the centred features."""
    a, b = features(40, 1, dim=120), features(30, 2, dim=120)
    x, y = ((z.double() - z.double().mean(0)) / np.sqrt(len(z) - 1) for z in (a, b))
    mean = a.double().mean(0) - b.double().mean(0)
    expected = mean @ mean + (x * x).sum() + (y * y).sum() - 2 * torch.linalg.svdvals(x @ y.T).sum()
    measured = fidelity.frechet_distance(fidelity.statistics(a), fidelity.statistics(b))
    assert measured == pytest.approx(expected.item(), rel=1e-6)


def test_unusable_features_are_refused() -> None:
    broken = features(20, 1)
    broken[3, 2] = float("nan")
    with pytest.raises(PrologueError, match="1 of 20 images are not finite"):
        fidelity.statistics(broken)
    with pytest.raises(PrologueError, match="1 images are too few"):
        fidelity.statistics(features(1, 1))
    with pytest.raises(PrologueError, match="9 images are too few"):
        fidelity.inception_score(features(9, 1))
    with pytest.raises(PrologueError, match="needs at least 4"):
        fidelity.precision_recall(features(3, 1), features(20, 1), neighbours=3)
    with pytest.raises(PrologueError, match="must be float"):
        fidelity.statistics(torch.zeros(20, 4, dtype=torch.uint8))
    for metric in (fidelity.statistics, fidelity.inception_score):
        with pytest.raises(PrologueError, match="all 20 images are equal"):
            metric(features(1, 1).expand(20, -1))
    with pytest.raises(PrologueError, match="two different networks"):
        fidelity.kernel_distance(features(9, 1), features(9, 1, dim=7))
    with pytest.raises(PrologueError, match="two different networks"):
        fidelity.frechet_distance(fidelity.statistics(features(9, 1)), fidelity.statistics(features(9, 1, dim=7)))


def test_ssim_equals_a_float64_computation() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (2, 3, 24, 20)).astype(np.uint8)
    b = np.clip(a.astype(int) + rng.integers(-40, 40, a.shape), 0, 255).astype(np.uint8)

    def mean(image: Points) -> Points:  # the 11 x 11 Gaussian window, where it lies inside
        return ndimage.gaussian_filter(image, 1.5, radius=5)[5:-5, 5:-5]

    expected = []
    for pair in zip(a.astype(float), b.astype(float), strict=True):
        channels = []
        for x, y in zip(*pair, strict=True):
            mx, my = mean(x), mean(y)
            vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
            c1, c2 = 2.55**2, 7.65**2
            ssim = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
            channels.append(ssim.mean())
        expected.append(np.mean(channels))
    measured = image_ssim(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(measured.numpy(), expected, rtol=1e-9)


def test_psnr_of_a_known_error() -> None:
    black = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    assert image_psnr(black + 16, black).item() == pytest.approx(20 * np.log10(255 / 16), rel=1e-6)


def test_codebook_usage_of_known_counts() -> None:
    usage, perplexity = codebook_usage(torch.tensor([5, 5, 0, 5, 5, 0, 0, 0]))
    assert usage == 0.5
    assert perplexity == pytest.approx(4)


def test_classifier_separates_what_is_linearly_separable_and_ignores_scale() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    x = torch.randn(300, 5, generator=rng)
    x[torch.arange(300), labels] += 6
    logits = classify(x[:200], labels[:200], x[200:])
    scaled = x * torch.tensor([1e-2, 1.0, 1e3, 1.0, 50.0]) + 5
    assert (classify(scaled[:200], labels[:200], scaled[200:]) - logits).abs().max() < 0.05
    assert top_share(logits, labels[200:], 1) > 0.95
    assert torch.equal(logits, classify(x[:200], labels[:200], x[200:]))
    assert top_share(logits, labels[200:], 5) == 1


def test_extractor_refuses_images_that_are_not_uint8() -> None:
    with pytest.raises(PrologueError, match="uint8"):
        Extractor("lite2")(torch.rand(2, 3, 32, 32))


@pytest.fixture(scope="module")
def params() -> Params:
    loaded = load_params(ROOT / "params.yaml")
    return loaded.model_copy(update={"evaluation": loaded.evaluation.model_copy(update={"batch": 7})})


@pytest.fixture(scope="module")
def run(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards of two classes (bright, dark), their reference, and an untrained tokenizer."""
    root = tmp_path_factory.mktemp("evaluation")
    rng = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("val", VAL)):
        for name, low in (("bright", 150), ("dark", 0)):
            folder = root / "source" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.kron(rng.integers(low, low + 105, (4, 4, 3)), np.ones((8, 8, 1)))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    write_shards(params.data.model_copy(update={"source": root / "source"}), 0, root / "shards")
    compute_reference(params, root / "shards", root / "reference")
    torch.manual_seed(0)
    prologue = PrologueConfig(tokens=4, codebook=16, tau=0.1, encoder=None)
    small = params.tokenizer.model_copy(
        update={side: params.tokenizer.encoder.model_copy(update={"layers": 1}) for side in ("encoder", "decoder")}
    )
    save_model(root / "tokenizer", Tokenizer(TokenizerConfig(image_size=32, tokenizer=small, prologue=prologue)))
    return root


def pixels_of(run: Path, split: str = "val") -> np.ndarray:
    images = ImageShards(run / "shards", split)
    return np.stack([np.asarray(images.image(i)) for i in range(len(images))])


def test_reference_is_what_the_extractor_says_of_the_images_in_order(run: Path) -> None:
    reference = load_reference(run / "reference", "lite2")
    pool, logits = Extractor("lite2")(torch.from_numpy(pixels_of(run)).permute(0, 3, 1, 2))
    assert reference.manifold is not None
    torch.testing.assert_close(reference.manifold, pool, rtol=1e-3, atol=1e-4)
    assert reference.protocol["is"] == pytest.approx(fidelity.inception_score(logits)[0], rel=1e-3)
    assert reference.manifold.shape == (2 * VAL, 1280)
    np.testing.assert_allclose(reference.statistics.sigma, np.cov(reference.manifold.double().numpy().T))
    assert reference.protocol["shards_sha256"] == sha256(run / "shards" / "manifest.json")
    tuned = load_reference(run / "reference" / "train", "lite2")  # what sampling is tuned against: no held-out image
    assert tuned.manifold is not None
    pool, _ = Extractor("lite2")(torch.from_numpy(pixels_of(run, "train")).permute(0, 3, 1, 2))
    torch.testing.assert_close(tuned.manifold, pool[evenly_spaced(len(pool), 10)], rtol=1e-3, atol=1e-4)
    with pytest.raises(PrologueError, match=r"evaluation\.extractor is inception"):
        load_reference(run / "reference", "inception")


def test_reconstruction_metrics_and_figures(run: Path, params: Params, tmp_path: Path) -> None:
    metrics = evaluate_reconstruction(
        params, run / "tokenizer", run / "shards", run / "reference", tmp_path / "reconstructions", tmp_path
    )
    assert 0 < metrics["prologue_usage"] <= 1
    assert 1 <= metrics["visual_perplexity"] <= params.tokenizer.codebook
    assert metrics["images"] == 2 * VAL
    tokenizer = load_tokenizer(run / "tokenizer")
    tokens = tokenizer.encode(torch.from_numpy(pixels_of(run)).permute(0, 3, 1, 2))
    originals, copies = torch.from_numpy(pixels_of(run)).permute(0, 3, 1, 2), to_uint8(tokenizer.decode(tokens.visual))
    again = tokenizer.encode(copies)
    assert metrics["psnr"] == pytest.approx(image_psnr(copies, originals).mean().item(), rel=1e-3)
    assert metrics["ssim"] == pytest.approx(image_ssim(copies, originals).mean().item(), rel=1e-2)
    assert metrics["l1"] == pytest.approx((copies.double() - originals).abs().mean().item() / 127.5, rel=1e-3)
    seen = PerceptualLoss("lite0")(copies.float() / 127.5 - 1, originals.float() / 127.5 - 1)
    assert metrics["perceptual_lite0"] == pytest.approx(seen.mean().item(), rel=1e-2)
    pool, _ = Extractor("lite2")(copies)
    known = load_reference(run / "reference", "lite2").statistics
    distance = fidelity.frechet_distance(fidelity.statistics(pool), known)
    assert metrics["rfd_lite2"] == pytest.approx(distance, rel=1e-2)
    shares = tokens.visual.flatten().bincount() / tokens.visual.numel()
    assert metrics["visual_entropy"] == pytest.approx(-torch.xlogy(shares, shares).sum().item(), abs=0.02)
    assert metrics["visual_perplexity"] == pytest.approx(np.exp(metrics["visual_entropy"]))
    assert tokens.prologue is not None
    assert again.prologue is not None
    for segment, first, second in (
        ("visual", tokens.visual, again.visual),
        ("prologue", tokens.prologue, again.prologue),
    ):
        share = (first == second).double().mean().item()
        assert metrics[f"{segment}_id_consistency"] == pytest.approx(share, abs=0.01)
    assert str(read_recipe(tmp_path / "reconstructions.png")[1]).endswith("/compositeWithTrainedAlgorithmicMedia")
    reconstructions = load_reference(tmp_path / "reconstructions", "lite2")
    real = load_reference(run / "reference", "lite2")
    assert reconstructions.protocol["images"] == 2 * VAL
    distance = fidelity.frechet_distance(reconstructions.statistics, real.statistics)
    assert distance == pytest.approx(metrics["rfd_lite2"])
    within = metrics["interval"]["rfd_lite2"]
    assert within["low"] < metrics["rfd_lite2"] < within["high"]
    for name in ("reconstructions", "codebook_usage"):
        with Image.open(tmp_path / f"{name}.png") as figure:
            assert min(figure.size) > 100


def test_the_extractor_gives_the_features_that_published_distances_are_of() -> None:
    """Numbers of its first release: another resampling, size or rounding would change every distance unnoticed."""
    ramp = np.add.outer(np.arange(32) * 5, np.arange(32) * 2)
    image = np.stack([ramp % 256, (ramp * 3) % 256, (255 - ramp) % 256]).astype(np.uint8)
    pool, logits = Extractor("lite2")(torch.from_numpy(image)[None])
    expected = torch.tensor([0.0, 0.0, 2.70772, 0.0, 0.33710, 0.61893, 0.45905, 0.0])
    torch.testing.assert_close(pool[0, :8], expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        logits[0, :4], torch.tensor([-2.18239, 2.10310, -1.66530, -2.86554]), rtol=1e-3, atol=1e-3
    )
    assert pool.norm().item() == pytest.approx(29.5009, rel=1e-3)


def test_reference_of_other_images_is_refused(run: Path, params: Params, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "manifest.json").write_text("{}")
    with pytest.raises(PrologueError, match="is of other images"):
        evaluate_reconstruction(
            params, run / "tokenizer", tmp_path / "shards", run / "reference", tmp_path / "reconstructions", tmp_path
        )


def test_samples_are_compared_with_real_images_and_with_reconstructions(
    run: Path, params: Params, tmp_path: Path
) -> None:
    """Guided samples are the real images themselves, the others are the reconstructions, which are noise."""
    real = pixels_of(run)
    noise = np.random.default_rng(0).integers(0, 256, real.shape).astype(np.uint8)
    labels = ImageShards(run / "shards", "val").labels
    np.savez(tmp_path / "cfg.npz", arr_0=real, arr_1=labels)
    np.savez(tmp_path / "no_cfg.npz", arr_0=noise)
    np.savez(tmp_path / "independent.npz", arr_0=noise)
    np.savez(tmp_path / "swapped.npz", arr_0=real, arr_1=labels, arr_2=1 - labels)
    images, protocol = ArrayImages(noise), load_reference(run / "reference", "lite2").protocol
    reconstructions = measure_reference(Extractor("lite2"), images, 7, protocol, start_accelerator())
    save_reference(tmp_path / "reconstructions", reconstructions)
    metrics = evaluate_generation(params, tmp_path, run / "reference", tmp_path / "reconstructions")
    apart = metrics["no_cfg"]["gfd_lite2"]
    assert apart > 100
    assert metrics["cfg"]["is_lite2"] == pytest.approx(metrics["real_is_lite2"], rel=1e-3)
    copied = metrics["cfg"]
    assert copied["precision_lite2"] == copied["recall_lite2"] == 1
    assert copied["to_reconstructions"]["recall_lite2"] == metrics["no_cfg"]["recall_lite2"] == 0
    for name, to_real, to_reconstructions in (("cfg", 0, apart), ("no_cfg", apart, 0), ("independent", apart, 0)):
        for own, distance in ((metrics[name], to_real), (metrics[name]["to_reconstructions"], to_reconstructions)):
            assert own["gfd_lite2"] == pytest.approx(distance, rel=1e-3, abs=1e-2)
            within = own["interval"]["gfd_lite2"]
            assert within["low"] < own["gfd_lite2"] < within["high"]
    assert metrics["no_cfg"]["kid_lite2"] == pytest.approx(copied["to_reconstructions"]["kid_lite2"], rel=1e-3)
    assert metrics["floor"]["gfd_lite2"] == floor(load_reference(tmp_path / "reconstructions", "lite2"), len(noise))
    swapped = metrics["swapped"]
    assert swapped["own_class"] == swapped["samples"] > 0.9
    assert swapped["prologue_class"] == pytest.approx(1 - swapped["own_class"])


def test_images_without_classes_do_not_look_like_theirs(run: Path, params: Params, tmp_path: Path) -> None:
    """By the means of the others of their class; each is nearest to a mean that it is part of."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3)).astype(np.uint8)
    for name in ("no_cfg", "independent"):
        np.savez(tmp_path / f"{name}.npz", arr_0=noise)
    np.savez(tmp_path / "cfg.npz", arr_0=noise, arr_1=np.arange(24) % 20)  # four of them have another of their class
    np.savez(tmp_path / "swapped.npz", arr_0=noise, arr_1=np.arange(24) % 4, arr_2=(np.arange(24) + 1) % 4)
    metrics = evaluate_generation(params, tmp_path, run / "reference", run / "reference")
    assert metrics["swapped"]["samples"] < 0.5
    np.savez(tmp_path / "cfg.npz", arr_0=noise, arr_1=np.arange(24))
    metrics = evaluate_generation(params, tmp_path, run / "reference", run / "reference")
    assert "samples" not in metrics["swapped"]


def test_samples_of_another_kind_are_refused(run: Path, params: Params, tmp_path: Path) -> None:
    np.savez(tmp_path / "floats.npz", arr_0=np.zeros((4, 8, 8, 3), np.float32))
    with pytest.raises(PrologueError, match="is float32"):
        NpzImages(tmp_path / "floats.npz")
    with pytest.raises(PrologueError, match=r"missing\.npz"):
        NpzImages(tmp_path / "missing.npz")
    for name in ("cfg", "no_cfg"):
        np.savez(tmp_path / f"{name}.npz", arr_0=np.zeros((12, 16, 16, 3), np.uint8))
    with pytest.raises(PrologueError, match="16 px images"):
        evaluate_generation(params, tmp_path, run / "reference", run / "reference")


def test_the_probe_tells_the_accuracies_of_prologue_and_visual_tokens_apart(
    run: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the features of the prologue know the class."""

    def blind(*arguments: Any, **options: Any) -> Any:
        means = split_means(*arguments, **options)
        return {name: torch.zeros_like(own) if name == "visual" else own for name, own in means.items()}

    monkeypatch.setattr(fast, "split_means", blind)
    metrics = run_probe(params, run / "tokenizer", run / "shards", tmp_path / "curves")
    assert metrics["prologue_encoder_fast_top1"] > 0.9
    assert metrics["visual_first8_encoder_fast_top1"] < 0.6


@pytest.mark.parametrize("feature", ["encoder", "code"])
def test_fast_probe_reads_an_obvious_class(run: Path, params: Params, tmp_path: Path, feature: str) -> None:
    params = params.model_copy(update={"probe": params.probe.model_copy(update={"feature": feature})})
    metrics = run_probe(params, run / "tokenizer", run / "shards", tmp_path / "curves")
    assert metrics[f"visual_first8_{feature}_fast_top1"] > 0.9
    assert metrics[f"prologue_{feature}_fast_top1"] > 0.9
    assert "not MAE's" in metrics["protocol"]
    assert [path.name for path in (tmp_path / "curves").iterdir()] == ["none.txt"]
    assert metrics["train_images"] == 2 * TRAIN
