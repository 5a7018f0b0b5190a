"""`precision: auto`: the precision of matrix products that this machine is faster in, the same on all processes."""

import time
from contextlib import suppress
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from platformdirs import user_cache_path

from prologue.core.files import read_json, write_json
from prologue.core.machine import cpu_identity
from prologue.core.params import Params
from prologue.core.runtime import start_accelerator

WORTH = 1.3  # times as fast, or more, for bf16 to be used: below, its rounding buys nothing
SIZE, ROUNDS = 1024, 8


def settle(params: Params) -> Params:
    """The params with `auto` replaced by fp32 or bf16, whichever suits this machine."""
    sampling = params.sampling
    if "auto" not in (params.precision, sampling.precision):
        return params
    own = faster_precision(start_accelerator())
    return params.model_copy(
        update={
            "precision": own if params.precision == "auto" else params.precision,
            "sampling": sampling.model_copy(
                update={"precision": own if sampling.precision == "auto" else sampling.precision}
            ),
        }
    )


def faster_precision(accelerator: Accelerator) -> Literal["fp32", "bf16"]:
    """bf16 on GPUs that have units for it (CUDA 8.0 and later), and on CPUs whose products are faster in it."""
    pays = False
    if accelerator.is_main_process and accelerator.device.type == "cuda":
        pays = torch.cuda.get_device_capability() >= (8, 0)
    elif accelerator.is_main_process and accelerator.device.type == "cpu":
        pays = _bf16_speedup() >= WORTH
    return "bf16" if broadcast_object_list([pays])[0] else "fp32"


def _bf16_speedup() -> float:
    """How many times faster than fp32 products of bf16 are on this CPU: timed once, then remembered in the cache."""
    path = user_cache_path("prologue") / "precision" / f"{cpu_identity()}-{torch.__version__}.json"
    if path.is_file():
        known: float = read_json(path)["bf16_speedup"]
        return known
    seconds = {dtype: _product_seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    speedup = round(seconds[torch.float32] / seconds[torch.bfloat16], 2)
    with suppress(OSError):  # timed again where nothing can be written
        write_json(path, {"bf16_speedup": speedup})
    return speedup


def _product_seconds(dtype: torch.dtype) -> float:
    """Seconds of the fastest of some products: flags of a processor do not tell whether its units pay."""
    x, weight = (torch.ones(SIZE, SIZE, dtype=dtype) for _ in range(2))
    measured = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        measured.append(time.perf_counter() - began)
        if measured[-1] > 1:  # emulated: one product is enough to know
            break
    return min(measured)
