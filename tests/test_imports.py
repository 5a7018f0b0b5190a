"""Models that come from elsewhere: another project's tokenizer, and folders of our own."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import VQModel
from safetensors.torch import load_file, save_file
from tiny import ROOT, as_keywords, tiny_params
from training_run import run_stages

from prologue.cli.main import main
from prologue.core.errors import PrologueError
from prologue.core.files import write_json
from prologue.core.params import Pixels
from prologue.core.params_file import load_params
from prologue.core.variants import Overrides
from prologue.interop import load_tokenizer
from prologue.interop.imported import import_params, import_tokenizer
from prologue.models.saved import save_model
from prologue.models.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def _own_work_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def vq_folder(tmp_path: Path) -> Path:
    """A tiny VQModel of two resolutions, as diffusers saves it."""
    torch.manual_seed(0)
    model: Any = VQModel(
        block_out_channels=(16, 16, 16),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
        layers_per_block=2,
        latent_channels=8,
        vq_embed_dim=6,
        num_vq_embeddings=32,
        norm_num_groups=8,
    )
    torch.nn.init.normal_(model.quantize.embedding.weight)
    model.save_pretrained(tmp_path / "vq")
    return tmp_path / "vq"


def flags_of(path: Path) -> Overrides:
    return import_params(import_tokenizer(path, 16, "signed"))


@pytest.mark.parametrize("pixels", ["signed", "unit"])
def test_another_projects_tokenizer_gives_its_own_ids_and_images(vq_folder: Path, pixels: Pixels) -> None:
    theirs = VQModel.from_pretrained(vq_folder).eval()
    tokenizer = load_tokenizer(vq_folder, image_size=16, pixels=pixels)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    scaled = images / 255 if pixels == "unit" else images / 127.5 - 1
    with torch.no_grad():
        _, _, (_, _, ids) = theirs.quantize(theirs.encode(scaled).latents)
        decoded = theirs(scaled).sample
    tokens = tokenizer.encode(images)
    assert tokens.prologue is None
    assert torch.equal(tokens.visual, ids.view(3, 16))
    torch.testing.assert_close(tokenizer.decode(tokens.visual), decoded * 2 - 1 if pixels == "unit" else decoded)
    save_model(Path("saved"), tokenizer)
    again = load_tokenizer(Path("saved"))
    assert torch.equal(again.decode(again.encode(images).visual), tokenizer.decode(tokens.visual))


def test_a_prologue_is_learned_for_another_projects_tokenizer(vq_folder: Path, shards: Path) -> None:
    imported = flags_of(vq_folder) | {"prologue.mode": "post"}
    run_stages(tiny_params(**as_keywords(imported)), shards, ["tokenizer", "attach"])
    before, after = (load_file(Path(name) / "model.safetensors") for name in ("tokenizer", "attached"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    attached = load_tokenizer(Path("attached"))
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert attached.encode(images).prologue.shape == (2, 3)


def test_a_folder_of_another_run_takes_the_place_of_training(shards: Path) -> None:
    run_stages(tiny_params(), shards, ["tokenizer", "tokens", "ar"], Path("other"))
    imported = flags_of(Path("other/tokenizer"))
    assert imported["tokenizer.source"] == "folder"
    assert flags_of(Path("other/tokenizer/model.safetensors")) == imported
    run_stages(tiny_params(**as_keywords(imported)), shards, ["tokenizer"])
    expected, got = load_file("other/tokenizer/model.safetensors"), load_file("tokenizer/model.safetensors")
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    with pytest.raises(PrologueError, match=r"tokenizer\.codebook is 33, the checkpoint has 32"):
        run_stages(tiny_params(**as_keywords(imported | {"tokenizer.codebook": 33})), shards, ["tokenizer"])


def test_a_whole_export_or_project_is_sent_to_its_tokenizer_and_a_pointer_to_git_lfs(shards: Path) -> None:
    run_stages(tiny_params(), shards, ["tokenizer"], Path("export"))
    for part in ("models/attached", "data/reference"):
        shutil.copytree("export/tokenizer", Path("project", part))
    with pytest.raises(PrologueError, match="is a whole project; give its tokenizer, project/models/attached"):
        flags_of(Path("project"))
    write_json(Path("export/config.json"), {"format": "prologue"})
    with pytest.raises(PrologueError, match="export is a whole export; give its export/tokenizer"):
        flags_of(Path("export"))
    weights = Path("export/tokenizer/model.safetensors")
    for content, said in ((weights.read_bytes()[:99], "damaged or cut"), (b"version https://git-lfs", "git lfs pull")):
        weights.write_bytes(content)
        with pytest.raises(PrologueError, match=f"safetensors cannot be read: .*{said}"):
            flags_of(Path("export/tokenizer"))


def test_a_wrong_or_partial_vq_model_is_refused_by_name(vq_folder: Path) -> None:
    with pytest.raises(PrologueError, match=r"18 is no multiple of .*safetensors's patch of 4 px"):
        load_tokenizer(vq_folder, image_size=18, pixels="signed")
    file = vq_folder / "diffusion_pytorch_model.safetensors"
    (alone := vq_folder / "alone").mkdir()
    shutil.copy(file, alone)
    with pytest.raises(PrologueError, match=r"has no config\.json of a VQModel beside it"):
        load_tokenizer(alone, image_size=16)
    tensors = load_file(file)
    del tensors["quant_conv.weight"]
    save_file(tensors, file)
    with pytest.raises(PrologueError, match=r"missing: quant_conv\.weight$"):
        load_tokenizer(vq_folder, image_size=16, pixels="signed")
    config = json.loads((vq_folder / "config.json").read_text())
    (vq_folder / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderKL"}))
    with pytest.raises(PrologueError, match=r"a model of class AutoencoderKL; of diffusers' models VQModel is read"):
        flags_of(vq_folder)
    (vq_folder / "config.json").write_text("Entry not found")
    with pytest.raises(PrologueError, match=r"config\.json is no JSON of a model: it begins with 'Entry not found'"):
        flags_of(vq_folder)


def test_weights_are_found_by_their_standard_name_or_alone(vq_folder: Path) -> None:
    file = vq_folder / "diffusion_pytorch_model.safetensors"
    (vq_folder / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not read where the standard name is there")
    load_tokenizer(vq_folder, image_size=16)
    file.rename(vq_folder / "own.safetensors")
    with pytest.raises(
        PrologueError, match=r"several .*: diffusion_pytorch_model\.fp16\.safetensors, own\.safetensors$"
    ):
        load_tokenizer(vq_folder, image_size=16)
    (vq_folder / "diffusion_pytorch_model.fp16.safetensors").unlink()
    load_tokenizer(vq_folder, image_size=16)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(PrologueError, match="git lfs pull"):
        load_tokenizer(vq_folder, image_size=16, pixels="signed")


def test_attention_is_read_by_its_old_names_too(vq_folder: Path) -> None:
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    expected = load_tokenizer(vq_folder, image_size=16, pixels="signed").encode(images)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # before diffusers 0.18
    tensors = {}
    for name, tensor in load_file(vq_folder / "diffusion_pytorch_model.safetensors").items():
        head, _, rest = name.rpartition(".")
        module = next((new for new in old if head.endswith(new)), None)
        tensors[f"{head.removesuffix(module)}{old[module]}.{rest}" if module else name] = tensor
    assert {name.split(".attentions.")[1][0] for name in tensors if "proj_attn" in name} == {"0", "1", "2"}
    save_file(tensors, vq_folder / "diffusion_pytorch_model.safetensors")
    assert torch.equal(load_tokenizer(vq_folder, image_size=16, pixels="signed").encode(images).visual, expected.visual)
    both = "encoder.mid_block.attentions.0.{}.bias"
    tensors[both.format("to_q")] = tensors[both.format("query")].clone()
    save_file(tensors, vq_folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(PrologueError, match=rf"unknown: {both.format('query')}$"):  # which of the two is not guessed
        load_tokenizer(vq_folder, image_size=16, pixels="signed")


def test_a_pipeline_names_its_tokenizer_and_flags_are_quoted_for_a_shell(
    vq_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = vq_folder.parent / "my pipeline"
    pipeline.mkdir()
    (pipeline / "model_index.json").write_text("{}")
    vq_folder.rename(pipeline / "vqvae")
    with pytest.raises(PrologueError, match="whole pipeline; give the folder of its VQModel: vqvae"):
        flags_of(pipeline)
    monkeypatch.chdir(ROOT)
    for given in (pipeline / "vqvae", pipeline / "vqvae" / "diffusion_pytorch_model.safetensors"):
        monkeypatch.setattr(sys, "argv", ["prologue", "import", str(given)])
        main()
        flags = shlex.split(capsys.readouterr().out)
        assert f"tokenizer.path='{given}'" in flags
        assert f"data.image_size={load_params().data.image_size}" in flags, "no file tells it: that of params.yaml"


def test_tokenizers_of_different_images_are_not_mixed_up(shards: Path) -> None:
    """A checkpoint for 16 px is refused where the params say 32."""
    run_stages(tiny_params(), shards, ["tokenizer"], Path("other"))
    assert isinstance(load_tokenizer(Path("other/tokenizer")), Tokenizer)
    imported = flags_of(Path("other/tokenizer")) | {"data.image_size": 32}
    with pytest.raises(PrologueError, match=r"data\.image_size is 32, the checkpoint has 16"):
        run_stages(tiny_params(**as_keywords(imported)), shards, ["tokenizer"])
