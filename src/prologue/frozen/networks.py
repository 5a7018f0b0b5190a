"""Frozen networks, loaded from their weights files."""

from typing import TYPE_CHECKING, TypeVar

import timm
import torch
from timm.layers.norm_act import BatchNormAct2d
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from prologue.core.errors import PrologueError
from prologue.frozen.weights import require

if TYPE_CHECKING:  # each takes a while to load, and most runs need neither
    import lpips
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

Network = TypeVar("Network", bound=nn.Module)


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


def lpips_vgg16() -> "lpips.LPIPS":
    """Frozen LPIPS on VGG16: two float (N, 3, H, W) in [-1, 1] -> (N, 1, 1, 1).

    Raises:
        PrologueError: the weights are missing or not the published ones.
    """
    import lpips

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


def inception() -> "FeatureExtractorInceptionV3":
    """Frozen Inception 2015-12-05: uint8 (N, 3, H, W) -> pool (N, 2048), logits without bias (N, 1008).

    Raises:
        PrologueError: the weights are missing or not the published ones.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

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
