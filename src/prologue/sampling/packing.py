"""Linear layers whose weights lie in memory as the CPU's matrix products read them (oneDNN's blocked layout)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prologue.core.runtime import never_compiled


class InferenceLinear(nn.Module):
    """A linear layer without bias for products of always as many rows.

    On a CPU its weights are reordered once, not at every product: fp32 always, bf16 where the CPU computes in it.
    """

    weight: Tensor

    def __init__(self, weight: Tensor, rows: int) -> None:
        """Weight (outputs, inputs), in the dtype of the products; `rows`: how many there will be in every one."""
        super().__init__()
        self.dtype, self.packed = weight.dtype, _can_pack(weight)
        if self.packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
        self.register_buffer("weight", weight.detach(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs), in the dtype of the weights."""
        x = x.to(self.dtype)
        return _packed_product(x, self.weight) if self.packed else F.linear(x, self.weight)


def _can_pack(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@never_compiled  # compilers do not know the layout
def _packed_product(x: Tensor, weight: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return product
