"""`prologue evaluate` on anyone's images: npz, folders, statistics; what cannot be measured is refused."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from calls import record_calls
from PIL import Image

from prologue.cli.main import main
from prologue.core.errors import PrologueError
from prologue.core.files import write_json
from prologue.evaluation import external
from prologue.evaluation.external import evaluate
from prologue.evaluation.image_sets import NpzImages

COUNT = 24
Pixels = np.ndarray


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PROLOGUE_THREADS", "1")
    monkeypatch.chdir(tmp_path)


def pictures(seed: int, count: int = COUNT, size: int = 16) -> Pixels:
    """Coloured blocks, uint8 (count, size, size, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3))
    return coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2).astype(np.uint8)


def write_npz(path: Path, images: Pixels, **others: Pixels) -> Path:
    np.savez(path, arr_0=images, allow_pickle=True, **others)
    return path


def write_folder(folder: Path, images: list[Pixels]) -> Path:
    (folder / "deeper").mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / ("deeper" if number % 2 else ".") / f"{number:03}.png")
    return folder


def run(samples: Path, reference: Path | None = None, **options: object) -> dict[str, object]:
    given = {"extractor": "lite2", "size": None, "batch": 7} | options
    return evaluate(samples, reference, **given)  # type: ignore[arg-type]


def test_an_npz_and_a_folder_of_the_same_images_measure_the_same(tmp_path: Path) -> None:
    samples, real = pictures(1), pictures(2)
    folder = write_folder(tmp_path / "folder", list(samples))
    order = [path.name for path in sorted(folder.rglob("*.png"))]
    npz = write_npz(tmp_path / "samples.npz", samples[[int(name[:3]) for name in order]])
    reference = write_npz(tmp_path / "real.npz", real)
    ours, theirs = run(npz, reference), run(folder, reference)
    for name in ("fd_lite2", "kid_lite2", "is_lite2", "precision_lite2", "recall_lite2"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-5)
    assert ours["images"] == ours["reference_images"] == COUNT
    assert "fid" not in ours
    assert not any(name.startswith("fid") for name in ours)


def test_images_of_many_sizes_are_measured_as_they_are_or_cropped_to_one(tmp_path: Path) -> None:
    sizes = [16, 16, 24, 40, 32, 8, 16, 64, 20, 20, 12, 28]
    mixed = write_folder(tmp_path / "mixed", [pictures(n, 1, size)[0, : size - 2] for n, size in enumerate(sizes)])
    reference = write_folder(tmp_path / "real", list(pictures(2)))
    one_by_one = run(mixed, reference, batch=1)
    together = run(mixed, reference, batch=12)
    assert one_by_one["fd_lite2"] == pytest.approx(together["fd_lite2"], rel=1e-4)
    cropped = run(mixed, reference, size=16)
    assert cropped["crop"] == "centre, 16 px"
    assert cropped["fd_lite2"] != pytest.approx(together["fd_lite2"], rel=1e-2)


def test_samples_of_another_size_than_the_reference_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = list(pictures(0, size=32))
    references = (write_npz(tmp_path / "real.npz", np.stack(images)), write_folder(tmp_path / "real", images))
    for size in (32, 16):
        samples = pictures(1, size=size)
        given = (write_npz(tmp_path / "a.npz", samples), write_folder(tmp_path / str(size), list(samples)))
        for own, reference in zip(given, references, strict=True):
            for _ in range(2):  # the reference is measured, then found again
                run(own, reference)
                warned = f"the samples have {size} px and the reference 32 px" in capsys.readouterr().err
                assert warned == (size == 16)


def test_the_reference_is_measured_once_and_again_when_its_images_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, reference = write_npz(tmp_path / "a.npz", pictures(1)), write_folder(tmp_path / "b", list(pictures(2)))
    first = run(samples, reference)
    monkeypatch.setattr(external, "measure_reference", lambda *_: pytest.fail("measured again"))
    assert run(samples, reference) == first
    Image.fromarray(pictures(3)[0]).save(reference / "000.png")
    with pytest.raises(pytest.fail.Exception):
        run(samples, reference)


def test_without_a_reference_only_the_inception_score_is_given(tmp_path: Path) -> None:
    metrics = run(write_npz(tmp_path / "a.npz", pictures(1)))
    assert float(metrics["is_lite2"]) >= 1  # type: ignore[arg-type]
    assert not any(name.startswith(("fd", "kid", "precision")) for name in metrics)


def test_statistics_of_inception_are_not_compared_with_another_network(tmp_path: Path) -> None:
    moments = {"mu": np.zeros(2048), "sigma": np.eye(2048)}
    samples = write_npz(tmp_path / "a.npz", pictures(1))
    np.savez(tmp_path / "statistics.npz", allow_pickle=False, **moments)
    with pytest.raises(PrologueError, match="statistics of Inception and no images"):
        run(samples, tmp_path / "statistics.npz")
    both = write_npz(tmp_path / "both.npz", pictures(2), **moments)
    alone = write_npz(tmp_path / "alone.npz", pictures(2))
    assert run(samples, both)["fd_lite2"] == pytest.approx(run(samples, alone)["fd_lite2"])


GREY = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 1), np.uint8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pictures(1)[:1], "1 images are too few"),
        (pictures(1)[:1].repeat(COUNT, axis=0), "all 24 images are equal"),
        (pictures(1).astype(np.float32), "is float32, but images are uint8"),
        (np.full((COUNT, 8, 8, 3), np.nan), "is float64, but images are uint8"),
        ((pictures(1) / 255).round().astype(np.uint8), "no value is above 1"),
        (pictures(1).astype(np.int64), "is int64"),
        (GREY, "repeat grey images over three channels"),
        (GREY[..., 0], "repeat grey images over three channels"),
        (GREY.repeat(3, axis=3), "the samples are grey, but the real images have colours"),
        (pictures(1).transpose(0, 3, 1, 2), r"has the shape \(24, 3, 16, 16\)"),
        (pictures(1)[:0], r"has the shape \(0, 16, 16, 3\)"),
        (np.array([{}] * COUNT), "is object"),
    ],
)
def test_what_cannot_be_measured_is_refused(images: Pixels, message: str, tmp_path: Path) -> None:
    reference = write_npz(tmp_path / "real.npz", pictures(2))
    with pytest.raises(PrologueError, match=message):
        run(write_npz(tmp_path / "samples.npz", images), reference)


def test_damaged_and_missing_inputs_are_named(tmp_path: Path) -> None:
    reference = write_npz(tmp_path / "real.npz", pictures(2))
    with pytest.raises(PrologueError, match=r"nowhere not found"):
        run(tmp_path / "nowhere", reference)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PrologueError, match="empty holds no images"):
        run(tmp_path / "empty", reference)
    broken = write_folder(tmp_path / "broken", list(pictures(1)))
    (broken / "000.png").write_bytes((broken / "000.png").read_bytes()[:60])
    with pytest.raises(PrologueError, match=r"000\.png: does not decode"):
        run(broken, reference)
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(PrologueError, match=r"text\.npz is no npz"):
        run(tmp_path / "text.npz", reference)
    with pytest.raises(PrologueError, match=r"text\.npz is no npz"):
        run(reference, tmp_path / "text.npz")
    np.save(tmp_path / "real.npy", pictures(2))
    with pytest.raises(PrologueError, match=r"real\.npy is no npz"):
        run(reference, tmp_path / "real.npy")
    content = bytearray(reference.read_bytes())
    content[len(content) // 2] ^= 255  # the archive's checksum finds it
    (tmp_path / "flipped.npz").write_bytes(content)
    with pytest.raises(PrologueError, match=r"flipped\.npz is damaged"):
        run(tmp_path / "flipped.npz", reference)
    np.savez_compressed(tmp_path / "small.npz", arr_0=pictures(1))
    content = bytearray((tmp_path / "small.npz").read_bytes())
    content[200:300] = bytes(100)  # no deflated data
    (tmp_path / "small.npz").write_bytes(content)
    with pytest.raises(PrologueError, match=r"small\.npz is (damaged|no npz)"):
        run(tmp_path / "small.npz", reference)


def test_a_folder_is_not_replaced_by_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "kept.txt").write_text("kept")
    words = ["prologue", "evaluate", str(write_npz(tmp_path / "a.npz", pictures(1))), "--output", "results"]
    measured = record_calls(monkeypatch, external, "extract")
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit):
        main()
    assert "results is a folder; give the name of a file" in capsys.readouterr().err
    assert not measured
    with pytest.raises(PrologueError, match="results is a folder"):
        write_json(tmp_path / "results", {})
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["kept.txt"]
    assert not list(tmp_path.glob(".*.tmp"))


def test_an_npz_is_read_in_order_and_compressed_too(tmp_path: Path) -> None:
    images = pictures(1)
    np.savez_compressed(tmp_path / "small.npz", arr_0=images, arr_1=np.arange(COUNT))
    batches = NpzImages(tmp_path / "small.npz").batches(np.array([3, 4, 9, 20, 23, 23]), 4)
    read = np.concatenate([batch.permute(0, 2, 3, 1).numpy() for batch in batches])
    np.testing.assert_array_equal(read, images[[3, 4, 9, 20, 23, 23]])


def test_two_processes_print_the_metrics_of_one(tmp_path: Path) -> None:
    samples = write_npz(tmp_path / "a.npz", pictures(1, 25))
    reference = write_folder(tmp_path / "b", list(pictures(2, 23)))
    alone = run(samples, reference)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python")
    program = (str(Path(sys.executable).parent / "prologue"), "evaluate", str(samples), "--reference", str(reference))
    options = ("--extractor", "lite2", "--output", "metrics.json")
    (tmp_path / "cache").rename(tmp_path / "unused")
    subprocess.run([*launcher, *program, *options], check=True, cwd=tmp_path, timeout=300)
    together = json.loads((tmp_path / "metrics.json").read_text())
    assert together.keys() == alone.keys()
    for name, value in alone.items():
        assert together[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), name


def test_files_that_are_no_images_are_passed_over_and_images_of_any_name_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = write_npz(tmp_path / "real.npz", pictures(2))
    folder = write_folder(tmp_path / "samples", list(pictures(1)))
    (folder / "__MACOSX").mkdir()
    for name in ("._000.png", "__MACOSX/._000.png", ".DS_Store", "Thumbs.db", "captions.txt"):
        (folder / name).write_bytes(b"\0\5\x16\7" * 20)
    Image.fromarray(pictures(3)[0]).save(folder / "avif.png", "AVIF")
    Image.fromarray(pictures(3)[1]).save(folder / "UPPER.JPEG")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "inside").symlink_to(folder)
    assert run(folder, reference)["images"] == run(tmp_path / "linked", reference)["images"] == COUNT + 2
    assert "warning" not in capsys.readouterr().err
    Image.fromarray(pictures(1, 1, 64)[0]).save(folder / "grid.png")
    assert run(folder, reference)["images"] == COUNT + 3
    assert "grid.png (64 x 64 px)" in capsys.readouterr().err


def test_one_bad_file_of_many_is_named_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = write_npz(tmp_path / "real.npz", pictures(2))
    folder = write_folder(tmp_path / "samples", list(pictures(1, 120)))
    whole = (folder / "deeper" / "119.png").read_bytes()
    (folder / "deeper" / "119.png").write_bytes(whole[: len(whole) // 2])
    metrics = run(folder, reference)
    assert (metrics["images"], metrics["unusable"]) == (119, 1)
    assert "119.png cannot be measured" in capsys.readouterr().err
    (folder / "deeper" / "117.png").write_bytes(b"<html>")
    with pytest.raises(PrologueError, match=r"(?s)more than 1% of the 120 images.*119\.png"):
        run(folder, reference)


def test_a_reference_that_cannot_be_used_is_told_before_samples_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "extract", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(PrologueError, match=r"nowhere\.npz not found"):
        run(write_npz(tmp_path / "samples.npz", pictures(1)), tmp_path / "nowhere.npz")


def test_metrics_do_not_depend_on_a_cache_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, reference = write_npz(tmp_path / "a.npz", pictures(1)), write_npz(tmp_path / "b.npz", pictures(2))
    expected = run(samples, reference)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert run(samples, reference) == expected
    assert "warning" in capsys.readouterr().err


def test_an_archive_of_something_else_says_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "key.npz", samples=pictures(1))
    with pytest.raises(PrologueError, match="it holds samples"):
        run(tmp_path / "key.npz")


@pytest.mark.parametrize("option", [("--batch", "0"), ("--batch", "-1"), ("--size", "-4"), ("--size", "0")])
def test_options_out_of_range_are_refused_by_name(
    option: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prologue", "evaluate", "a.npz", *option])
    with pytest.raises(SystemExit):
        main()
    assert option[0] in capsys.readouterr().err


@pytest.mark.parametrize(("spatial", "warned"), [({}, True), ({"mu_s": np.zeros(2023)}, False)])
def test_statistics_of_unknown_making_are_not_taken_for_adms(
    spatial: dict[str, Pixels], warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "a.npz", allow_pickle=False, mu=np.zeros(2048), sigma=np.eye(2048), **spatial)
    network, accelerator = SimpleNamespace(name="inception", protocol={}), SimpleNamespace(is_main_process=True)
    given = external._reference(tmp_path / "a.npz", network, None, 8, accelerator)  # type: ignore[arg-type]
    assert given.protocol["images"] == "statistics alone, made elsewhere"
    assert ("clean-fid" in capsys.readouterr().err) is warned
