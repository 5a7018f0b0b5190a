"""Trained models in use: `prologue sample`, `encode`, `decode`, `export`, `try`, and the model that ships."""

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub.errors import HFValidationError
from PIL import Image
from safetensors.torch import load_file, save_file
from small_models import make_tokenizer
from tiny import ROOT, tiny_params
from torch.nn.functional import cross_entropy
from trained_project import make_trained_project

from prologue.cli import main as cli
from prologue.core.errors import PrologueError
from prologue.core.files import read_json, sha256, write_json
from prologue.core.machine import cpu_name
from prologue.generator import folders
from prologue.generator.card import LICENCES
from prologue.generator.export import MANIFEST
from prologue.generator.files import read_photo
from prologue.generator.folders import load_generator, shipped_folder
from prologue.measures.images import image_psnr
from prologue.models.saved import load_ar, load_tokenizer, save_model
from prologue.models.tokenizer import to_uint8
from prologue.pipeline.samples import make_samples

Run = Callable[..., tuple[int, str]]
PUBLISHED = Path(__file__).parent / "published"
WITHOUT = PUBLISHED / "2d"  # a prologue


@pytest.fixture(scope="module")
def project(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_trained_project(tmp_path_factory.mktemp("sampled") / "my-run", trained)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in an empty folder; returns its exit status and all that it printed."""
    monkeypatch.chdir(tmp_path)

    def run_command(*words: str | Path) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["prologue", *map(str, words)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run_command


def write_photos() -> None:
    """Three images in photos/, each of its own contrast, one in a folder of its own, beside a text."""
    Path("photos/z").mkdir(parents=True)
    Path("photos/notes.txt").write_text("three")
    for name in ("0", "1", "z/2"):
        Image.effect_noise((50, 40), 60 + 30 * int(name[-1])).convert("RGB").save(f"photos/{name}.png")


def test_the_command_draws_what_the_stage_draws(run: Run, project: Path, shards: Path, tmp_path: Path) -> None:
    params = tiny_params()
    models = (project / "models" / "ar", project / "models" / "attached")
    make_samples(
        params, *models, project / "data" / "tokens", shards, project / "data" / "sweep", tmp_path / "s", tmp_path / "f"
    )
    assert run("sample", project, "--images", 12, "--output", "own.npz")[0] == 0
    with np.load("s/cfg.npz") as stage, np.load("own.npz") as own:
        assert (stage["arr_0"] == own["arr_0"]).all()
        assert (stage["arr_1"] == own["arr_1"]).all()
    assert run("sample", project, "--images", 12, "--output", "other.npz", "--seed", 1)[0] == 0
    with np.load("other.npz") as other, np.load("own.npz") as own:
        assert (other["arr_0"] != own["arr_0"]).any()


def test_each_setting_reaches_the_sampler(run: Run, project: Path) -> None:
    drawn = {}
    for flags in ("", "--guidance 9", "--prologue-guidance 9", "--temperature 0.1", "--prologue-temperature 0.1"):
        status, printed = run("sample", project, "--images", "8", "--json", *flags.split())
        assert status == 0
        drawn[flags] = json.loads(printed)
    ids = {flags: (json.dumps(one["prologue"]), json.dumps(one["visual"])) for flags, one in drawn.items()}
    assert len({visual for _, visual in ids.values()}) == len(ids), "a setting changed nothing"
    for flags in ("--guidance 9", "--temperature 0.1"):
        assert ids[flags][0] == ids[""][0], "a setting of the visual tokens changed the prologue"
    assert drawn["--guidance 9"]["settings"]["visual"]["guidance"] == 9


def test_a_held_prologue_is_shared_by_a_class_and_one_of_a_photo_by_all(run: Run, project: Path) -> None:
    held = json.loads(run("sample", project, "--images", 6, "--hold-prologue", "--json")[1])
    assert held["classes"] == ["dawn", "dusk"] * 3
    assert held["prologue"][::2] == held["prologue"][:1] * 3
    assert held["visual"][0] != held["visual"][2]
    others = json.loads(run("sample", project, "--images", 6, "--hold-prologue", "--seed", 1, "--json")[1])
    assert others["prologue"] != held["prologue"]
    Image.effect_noise((40, 30), 90).convert("RGB").save("photo.png")
    own = json.loads(run("encode", "photo.png", "--model", project, "--json")[1])["images"][0]["prologue"]
    drawn = json.loads(run("sample", project, "--prologue-from", "photo.png", "--classes", "dusk", "--json")[1])
    assert drawn["prologue"] == [own] * 16
    assert set(drawn["classes"]) == {"dusk"}


def test_the_photos_of_a_folder_give_a_prologue_each(run: Run, project: Path) -> None:
    write_photos()
    encoded = json.loads(run("encode", "photos", "--model", project, "--json")[1])["images"]
    own = [image["prologue"] for image in encoded]
    assert own[0] != own[1]
    drawn = json.loads(run("sample", project, "--prologue-from", "photos", "--images", 7, "--json")[1])
    assert drawn["prologue"] == [*own, *own, own[0]]


def test_a_class_may_have_commas_in_its_name(project: Path) -> None:
    generator = replace(load_generator(str(project)), classes=("tench, Tinca tinca", "dusk"))
    assert generator.classes_in("dusk, tench, Tinca tinca,dusk") == ["dusk", "tench, Tinca tinca", "dusk"]
    with pytest.raises(PrologueError, match="there is no class 'tench'"):
        generator.labels_of(generator.classes_in("tench,dusk"))


def test_kinds_of_output(run: Run, project: Path) -> None:
    for name in ("grid.png", "grid.webp", "set.npz", "folder"):
        status, printed = run("sample", project, "--images", 4, "--output", name)
        assert status == 0
        assert name in printed
    assert sorted(path.name for path in Path("folder").iterdir()) == [
        f"{image:06d}_{name}.png" for image, name in enumerate(["dawn", "dusk"] * 2)
    ]
    with np.load("set.npz") as samples, Image.open("folder/000001_dusk.png") as picture:
        assert (samples["arr_0"][1] == np.array(picture)).all()
    assert Image.open("grid.webp").size == Image.open("grid.png").size
    for name in ("grid.png", "grid.webp", "set.npz", "folder/000001_dusk.png"):
        status, printed = run("inspect", name, "--json")
        assert status == 0
        recipe = json.loads(printed)
        assert recipe["weights_sha256"] == load_generator(str(project)).weights_sha256
        assert (recipe["seed"], recipe["classes"]) == (0, ["dusk"] if "/" in name else ["dawn", "dusk"] * 2)
        assert recipe.get("image") == (1 if "/" in name else None)
    assert "seed: 0" in run("inspect", "grid.png")[1]
    Path("link").symlink_to("folder")
    Path("empty.png").mkdir()
    for name, said in (("link", "is a link to a folder"), ("empty.png", "is a folder; give the name of a file")):
        status, printed = run("sample", project, "--images", 4, "--output", name)
        assert status == 1
        assert said in printed
    status, printed = run("sample", project, "--classes", "")
    assert status == 1
    assert "there is no class ''" in printed


def test_encoding_and_decoding_are_the_tokenizers(run: Run, project: Path) -> None:
    write_photos()
    Path("taken.npz").mkdir()
    assert "taken.npz is a folder; give" in run("encode", "photos", "--model", project, "--output", "taken.npz")[1]
    status, printed = run("encode", "photos", "--model", project, "--output", "ids.npz")
    assert status == 0
    assert "bits per pixel" in printed
    assert run("decode", "ids.npz", "--model", project, "--output", "copies")[0] == 0
    tokenizer = load_tokenizer(project / "models" / "attached")
    with np.load("ids.npz") as ids:
        assert list(ids["names"]) == ["0.png", "1.png", "z/2.png"]
        copies = to_uint8(tokenizer.decode(torch.from_numpy(ids["visual"].astype(np.int64))))
    assert (np.array(Image.open("copies/000002_z-2.png")) == copies[2].permute(1, 2, 0).numpy()).all()
    assert json.loads(run("inspect", "copies/000002_z-2.png", "--json")[1])["decoded_from"] == ["z/2.png"]
    assert Image.open("ids.png").height > 0
    shutil.copytree("photos", "both/a")
    shutil.copytree("photos", "both/b")
    assert run("encode", "both/a", "both/b", "--model", project, "--output", "both.npz")[0] == 0
    with np.load("both.npz") as ids:
        assert list(ids["names"]) == [f"{folder}/{image}" for folder in "ab" for image in ("0.png", "1.png", "z/2.png")]
    shutil.copy("photos/0.png", "holiday.png")
    status, printed = run("encode", "photos", "--model", project, "--output", "holiday.npz")
    assert (status, Path("holiday.png").read_bytes()) == (1, Path("photos/0.png").read_bytes())
    assert "holiday.png is no picture of ours, and would be overwritten" in printed
    photo = Path("photos/0.png").read_bytes()
    status, printed = run("encode", "photos/0.png", "--model", project, "--output", "photos/0.npz")
    assert (status, Path("photos/0.png").read_bytes()) == (1, photo)
    assert "photos/0.png is one of the inputs, and would be overwritten" in printed
    for words in (
        ("sample", project, "--prologue-from", "photos/0.png", "--output", "photos/0.png"),
        ("decode", "ids.npz", "--model", project, "--output", "ids.npz"),
    ):
        status, printed = run(*words)
        assert status == 1
        assert "is one of the inputs, and would be overwritten" in printed


def test_models_of_different_runs_are_told_and_never_decode_what_the_other_encoded(run: Run, project: Path) -> None:
    shutil.copytree(project, "own")
    assert run("export", "before", "--model", "own")[0] == 0
    hashed = load_generator("own").weights_sha256
    write_json(Path("own/reports/metrics/samples.json"), {"weights_sha256": hashed})
    write_photos()
    assert "warning" not in run("encode", "photos", "--model", "own", "--output", "ids.npz")[1]
    file = Path("own/models/attached/model.safetensors")  # as Stage 1 alone would leave it, run again
    save_file({name: tensor + 0.01 for name, tensor in load_file(file).items()}, file)
    assert "is not what the last samples were drawn from" in run("sample", "own", "--images", 2)[1]
    status, printed = run("decode", "ids.npz", "--model", "own")
    assert status == 1
    assert "ids.npz was encoded by another tokenizer; give the --model that encoded it" in printed
    assert run("decode", "ids.npz", "--model", "before")[0] == 0
    with np.load("ids.npz") as ids:
        arrays = {name: ids[name] for name in ids.files if name != "recipe"}
    np.savez("short.npz", **(arrays | {"names": arrays["names"][:1]}))
    assert "are not of as many images" in run("decode", "short.npz", "--model", "own")[1]
    shutil.rmtree("own/models/attached")
    save_model(Path("own/models/attached"), make_tokenizer(prologue__tokens=5))
    assert "tokenizer and AR model do not belong together" in run("sample", "own")[1]


def test_without_a_model_of_the_project_the_one_that_ships_is_named_and_not_exported(run: Run) -> None:
    assert "there is no models/ar here; this is the small model" in run("sample", "--images", 1)[1]
    status, printed = run("export", "out")
    assert status == 1
    assert "there is no models/ar here to export" in printed
    assert not Path("out").exists()


def test_an_export_takes_the_place_of_nothing_but_an_export(run: Run, project: Path) -> None:
    Path("web").mkdir()
    Path("web/main.js").write_text("mine")
    write_json(Path("web/manifest.json"), {"main.js": sha256(Path("web/main.js"))})  # of another kind of program
    assert "web holds something else, main.js" in run("export", "web", "--model", project)[1]
    assert run("export", "own", "--model", project)[0] == 0
    assert run("export", "own", "--model", project)[0] == 0
    Path("own/README.md").write_text("my own words")
    assert "own holds something else, README.md" in run("export", "own", "--model", project)[1]
    assert Path("own/README.md").read_text() == "my own words"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sample PROJECT --classes dawm,dusk", "there is no class 'dawm' in my-run; nearest: dawn"),
        ("sample PROJECT --output samples.gif", "samples.gif: give a picture (.png or .webp), an .npz, or a name"),
        ("sample PROJECT --guidance -1", "visual.guidance cannot be -1"),
        ("sample PROJECT --guidance inf", "visual.guidance cannot be inf"),
        (f"sample {WITHOUT} --prologue-guidance 2", "--prologue-guidance changes nothing, as 2d has no prologue"),
        (f"sample {WITHOUT} --prologue-temperature 2", "--prologue-temperature changes nothing, as 2d has no prologue"),
        ("sample PROJECT --output .", ".: give a file or a folder of its own name"),
        ("sample PROJECT --output PROJECT/params.yaml/x.png", "params.yaml is no folder that takes files"),
        ("encode PROJECT/a.png --output PROJECT/params.yaml/x.npz", "params.yaml is no folder that takes files"),
        (f"sample PROJECT --output {'x' * 300}.png", "File name too long: '"),
        ("export . --model PROJECT", ".: give a file or a folder of its own name"),
        ("try PROJECT --output .", ".: give a file or a folder of its own name"),
        ("try PROJECT --output PROJECT/params.yaml/x", "params.yaml is no folder that takes files"),
        ("sample PROJECT --key k", "--key marks nothing, as the model's watermark is off"),
        ("sample PROJECT --images 10000 --output wide.webp", "a WebP has up to 16383 px a side"),
        ("sample nowhere", "nowhere is no folder: give a project, an exported or a published model, or `small`"),
        ("sample PROJECT/data", "holds no model: neither models/ar of a project"),
        ("sample PROJECT --prologue-from PROJECT/params.yaml", "params.yaml cannot be used: does not decode"),
        ("encode PROJECT/missing.png --model PROJECT", "missing.png cannot be used: "),
        ("encode PROJECT/a.png --output ids.png", "ids.png: ids are written as .npz"),
        ("sample PROJECT/models/attached", "describes no exported model, which has an AR model"),
        ("decode PROJECT/params.yaml --model PROJECT", "params.yaml holds no ids, which `prologue encode` writes"),
        ("export PROJECT --model PROJECT", "holds something else, data/"),
        ("sample PROJECT --output PROJECT", "; give a new folder"),
        ("try PROJECT --output PROJECT", "; give a new folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(run: Run, project: Path, words: str, said: str) -> None:
    status, printed = run(*words.replace("PROJECT", str(project)).split())
    assert status == 1
    assert said in printed
    assert "Traceback" not in printed
    assert not list(Path().iterdir())


def test_ids_of_another_model_are_refused(run: Run, project: Path) -> None:
    visual = np.zeros((2, 16), np.uint16)
    for name, changed in {"few": visual[:, :5], "large": visual + 32, "float": visual.astype(float)}.items():
        np.savez(f"{name}.npz", visual=changed)
        status, printed = run("decode", f"{name}.npz", "--model", project)
        assert status == 1
        assert "this model has" in printed
    assert not Path("decoded.png").exists()


def test_an_exported_model_is_equal_to_the_bit_and_samples_the_same(run: Run, project: Path) -> None:
    assert run("export", "moved/model", "--model", project)[0] == 0
    for part, load, source in (("tokenizer", load_tokenizer, "attached"), ("ar", load_ar, "ar")):
        own, original = (
            load(folder).state_dict() for folder in (Path("moved/model", part), project / "models" / source)
        )
        assert all(torch.equal(own[name], tensor) for name, tensor in original.items())
    assert run("export", "half", "--model", project, "--dtype", "bf16", "--name", "half")[0] == 0
    sizes = [sum(file.stat().st_size for file in Path(name).rglob("*.safetensors")) for name in ("moved/model", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    listed = read_json(Path("moved/model/manifest.json"))
    assert listed == {name: sha256(Path("moved/model", name)) for name in listed}
    assert {"config.json", "README.md", "ar/model.safetensors"} <= listed.keys()
    generator, moved = load_generator(str(project)), load_generator("moved/model")
    assert moved.weights_sha256 == generator.weights_sha256 != load_generator("half").weights_sha256
    assert moved.classes == generator.classes
    assert moved.cfg == generator.cfg
    assert moved.precision == generator.precision == "fp32"
    shutil.rmtree("moved/model/ar")
    status, printed = run("sample", "moved/model")
    assert status == 1
    assert "is missing" in printed


@pytest.mark.parametrize(("system", "power"), [("prologue", 0.25), ("prologue_post", 0.25), ("2d", 1.5), ("1d", 1.75)])
def test_a_published_model_comes_back_from_an_export_equal_to_the_bit(run: Run, system: str, power: float) -> None:
    folder = PUBLISHED / system
    assert run("export", "own", "--model", folder)[0] == 0
    published, own = load_generator(str(folder)), load_generator("own")
    assert own.weights_sha256 == published.weights_sha256
    assert own.cfg == published.cfg
    segments = [(part.schedule, part.power, part.guidance) for part in (published.cfg.prologue, published.cfg.visual)]
    assert segments == [("constant", 1, 1), ("cosine", power, 1)], (
        "no guidance, which rises as the paper's if asked for"
    )
    seeds: list[tuple[int, ...]] = [(0, 0), (0, 1)]
    drawn, again = (model.sample(model.cfg, [0, 1], seeds) for model in (published, own))
    assert torch.equal(again.visual, drawn.visual)
    assert (own.pixels(drawn) == published.pixels(drawn)).all()
    images = torch.from_numpy(published.pixels(drawn)).permute(0, 3, 1, 2)
    for model in (own, load_tokenizer(Path("own/tokenizer"))):
        assert torch.equal(model.encode(images).visual, published.encode(images).visual)


def test_an_export_is_pushed_with_the_users_own_token(  # to a stub of the Hub's client
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Hub:
        def create_repo(self, repository: str, **how: Any) -> str:
            if repository == "not mine/model":
                raise HFValidationError("not yours")
            calls.append((repository, how))
            return f"https://hub/{repository}"

        def upload_folder(self, **how: Any) -> None:
            calls.append(("upload", {**how, "files": sorted(path.name for path in how["folder_path"].iterdir())}))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    status, printed = run("export", "out", "--model", project, "--push", "me/model")
    assert status == 0
    assert "https://hub/me/model" in printed
    assert calls[0] == ("me/model", {"private": True, "exist_ok": True})
    assert calls[1][1]["files"] == ["README.md", "ar", "config.json", "manifest.json", "tokenizer"]
    status, printed = run("export", "out", "--model", project, "--push", "not mine/model")
    assert status == 1
    assert "was not uploaded: not yours; `hf auth login` sets your token" in printed


def test_the_card_tells_what_the_run_recorded_and_nothing_else(run: Run, project: Path) -> None:
    assert run("export", "bare", "--model", project)[0] == 0
    bare = Path("bare/README.md").read_text()
    assert "2 classes (dawn, dusk)" in bare
    assert "## Training" not in bare
    shutil.copytree(project, "whole")
    shutil.copytree(ROOT / "reports" / "metrics", "whole/reports/metrics")
    Path("whole/data/shards").mkdir()
    Path("whole/data/shards/manifest.json").write_text("{}")
    assert run("export", "of-others", "--model", "whole")[0] == 0
    assert "## Training" not in Path("of-others/README.md").read_text(), "the metrics are of other weights"
    assert not Path("of-others/metrics.json").exists()
    samples = Path("whole/reports/metrics/samples.json")
    write_json(samples, read_json(samples) | {"weights_sha256": load_generator("whole").weights_sha256})
    assert run("export", "told", "--model", "whole", "--name", "a name")[0] == 0
    card = Path("told/README.md").read_text()
    psnr = read_json(ROOT / "reports" / "metrics" / "evaluate_reconstruction.json")["psnr"]
    assert f"| PSNR, dB | {psnr:.4g} | higher |" in card
    assert "# a name" in card
    assert read_json(ROOT / "reports" / "metrics" / "ar.json")["cpu"] in card
    assert "an estimate" not in card, "what its cores take is not known here"
    for path in Path("whole/reports/metrics").glob("*.json"):
        write_json(path, read_json(path) | {"cpu": cpu_name()})
    assert run("export", "here", "--model", "whole")[0] == 0
    assert "an estimate, as nothing was metered" in Path("here/README.md").read_text()
    assert not Path("told/LICENSE").exists(), "the licence of these photos is not known"
    ours, params = next(iter(LICENCES)), Path("whole/params.yaml")
    for digest, source, mit in (("0", "train", False), (ours, "folder", False), (ours, "train", True)):
        write_json(Path("whole/data/source.json"), {"sha256": digest})
        own = yaml.safe_load(params.read_text())
        own["tokenizer"]["source"] = source
        params.write_text(yaml.safe_dump(own))
        status, printed = run("export", "of", "--model", "whole")
        assert status == 0, printed
        assert Path("of/LICENSE").exists() == mit
        card = Path("of/README.md").read_text()
        assert ("license: mit" in card) == mit
        assert ("Imported: the tokenizer (folder). Trained were" in card) == (source == "folder")
    write_json(Path("whole/reports/metrics/tokenizer.json"), {"imported": {"vq.pt": "0123"}})
    assert run("export", "imported", "--model", "whole")[0] == 0
    assert not Path("imported/LICENSE").exists(), "the run imported its tokenizer, whatever params.yaml says now"
    assert read_json(Path("told/metrics.json"))["evaluate_reconstruction"]["psnr"] == psnr
    assert run("export", "again", "--model", "of")[0] == 0
    for name in ("LICENSE", "params.yaml", "metrics.json"):
        assert Path("again", name).read_bytes() == Path("of", name).read_bytes()
    assert "license: mit" in Path("again/README.md").read_text()
    assert Path("told/params.yaml").read_bytes() == Path("whole/params.yaml").read_bytes()
    parts = card.split("## ")[1:]
    assert all(len(part.strip().splitlines()) > 1 for part in parts), "a heading with nothing under it"


def test_first_pictures_are_of_the_projects_own_images(run: Run, project: Path, shards: Path) -> None:
    shutil.copytree(project, "own")
    assert run("try", "own", "--output", "without")[0] == 0
    assert not Path("without/reconstructions.png").exists()
    shutil.copytree(shards, "own/data/shards")
    assert run("try", "own", "--output", "with")[0] == 0
    assert Path("with/reconstructions.png").is_file()
    assert "model that ships" not in Path("with/index.html").read_text()


def test_the_model_that_ships_is_the_default_runs() -> None:
    """Every tenth held-out image: PSNR and nats are those of the committed metrics, but for the choice of images."""
    drawn = read_json(ROOT / "reports" / "metrics" / "samples.json")["weights_sha256"]
    assert read_json(shipped_folder() / "metrics.json")["samples"]["weights_sha256"] == drawn
    for name, known in read_json(shipped_folder() / MANIFEST).items():
        assert sha256(shipped_folder() / name) == known, name
    assert sum(file.stat().st_size for file in shipped_folder().rglob("*")) < 8e6
    generator, metrics = load_generator("small"), ROOT / "reports" / "metrics"
    with zipfile.ZipFile(ROOT / "data" / "fashion_mnist.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("val/") and name.endswith(".png"))[::10]
        images = torch.stack([read_photo(archive.read(name), 32) for name in names])
    labels = torch.tensor(generator.labels_of([name.split("/")[1] for name in names]))
    tokens = generator.tokenizer.encode(images)
    psnr = image_psnr(to_uint8(generator.tokenizer.decode(tokens.visual)), images).mean().item()
    assert psnr == pytest.approx(read_json(metrics / "evaluate_reconstruction.json")["psnr"], abs=0.3)
    with torch.no_grad():
        logits = generator.ar(tokens.prologue, tokens.visual, labels)
    ids = generator.ar.vocabulary.sequence(tokens.prologue, tokens.visual)
    nats = cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="sum").item() / len(images)
    assert nats == pytest.approx(read_json(metrics / "evaluate_likelihood.json")["nats"]["total"], rel=0.03)


def test_a_model_is_loaded_where_the_machine_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "start_accelerator", lambda: SimpleNamespace(device=torch.device("meta")))
    generator = load_generator("small")
    for model in (generator.tokenizer, generator.ar):
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
