"""Linear layers whose weights lie in memory as the CPU's matrix products read them (oneDNN's blocked layout)."""

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """A linear layer without bias for inference on a CPU: its weights are reordered once, not at every product."""

    weight: Tensor

    def __init__(self, layer: nn.Linear, rows: int) -> None:
        """`rows`: how many there will be in every product; the layout is chosen for it."""
        super().__init__()
        self.dtype = layer.weight.dtype
        packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)
        self.register_buffer("weight", packed, persistent=False)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # compilers do not know the layout
    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs), in the dtype of the weights."""
        return torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.weight, None, "none", [], "")


def packed(layer: nn.Linear, rows: int) -> nn.Module:
    """The layer packed for products of `rows` rows where this device and dtype have it, else the layer as it is."""
    dtype, device = layer.weight.dtype, layer.weight.device.type
    supported = dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if device == "cpu" and torch.backends.mkldnn.is_available() and supported and layer.bias is None:
        return PackedLinear(layer, rows)
    return layer
