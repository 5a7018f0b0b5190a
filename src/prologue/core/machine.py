"""What the CPU at hand is: for caches of what was compiled or measured on it, and beside every figure of speed."""

import hashlib
import platform
import resource
import sys
from functools import cache
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
UNITS = ("amx_tile", "avx512_bf16", "avx512f", "avx2", "bf16", "asimd")  # of products, the best first


@cache
def _described() -> dict[str, str]:
    """Model and units as Linux lists them for the first core; empty elsewhere."""
    if not CPUINFO.is_file():
        return {}
    pairs = (line.partition(":") for line in CPUINFO.read_text().split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_name() -> str:
    """Model and best units of the CPU, such as `AMD EPYC (avx2)`."""
    units = _flags().split()
    best = next((unit for unit in UNITS if unit in units), "")
    name = _described().get("model name") or platform.processor() or platform.machine()
    return f"{name} ({best})" if best else name


def peak_memory_mb() -> int:
    """The most memory that this process has had, in 2^20 bytes: what systems count in kilobytes, Apple's in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2**20 if sys.platform == "darwin" else 2**10)


def gpu_used() -> dict[str, Any]:
    """Name and peak memory of the GPU that this process has used, for its metrics; empty where it has used none."""
    torch = sys.modules.get("torch")  # a stage that has not loaded it has used no GPU
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {"gpu": torch.cuda.get_device_name(), "peak_gpu_memory_mb": torch.cuda.max_memory_allocated() // 2**20}


def _flags() -> str:
    """All instruction sets of the CPU, as the system names them."""
    described = _described()
    return described.get("flags") or described.get("Features") or platform.processor()


def cpu_identity() -> str:
    """A key for files that are good on this kind of CPU only."""
    parts = [platform.machine(), _described().get("model name", ""), _flags()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
