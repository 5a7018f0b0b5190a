"""Which weights a model has, whatever folder or file they lie in."""

import hashlib

from torch import nn


def weights_sha256(*models: nn.Module) -> str:
    """SHA-256 of all weights by name, as they are in memory."""
    digest = hashlib.sha256()
    for model in models:
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
