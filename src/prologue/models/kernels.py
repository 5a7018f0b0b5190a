"""The kernels of kernels.cpp: compiled once for this machine's CPU, kept in the user's cache, called by pointers.

Without a C++ compiler, or with PROLOGUE_KERNELS=off, PyTorch's own operations do the same work more slowly.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from platformdirs import user_cache_path
from torch import Tensor

from prologue.core.launch import is_main_process, switch_from
from prologue.core.machine import cpu_identity

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC"]
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS.append("-mprefer-vector-width=256")  # sums over a head's channels take fewer steps than in wider ones
CHUNKS = 32  # of rows, in whose parts a sum over all rows is made; as in kernels.cpp
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
ARGUMENTS = {  # p pointer, i 64-bit and n 32-bit integer, f float
    "rms_norm": "ppppii",
    "rms_norm_backward": "ppppppii",
    "heads": "pppppppp" + "iii",
    "heads_backward": "ppppppppp" + "iii",
    "geglu": "ppii",
    "geglu_backward": "pppii",
    "decode_attention": "ppppiii",
    "dropout": "pppiinf",
}
C_TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "n": ctypes.c_int, "f": ctypes.c_float}


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels can serve: fp32 or bf16 on a CPU, in memory, and no compiler at work that fuses by itself."""
    if torch.compiler.is_compiling():
        return False
    for tensor in tensors:
        if type(tensor) not in (Tensor, torch.nn.Parameter):  # others may hold no numbers
            return False
        if tensor.device.type != "cpu" or tensor.dtype not in TYPES:
            return False
    return library() is not None


def call(
    name: str, dtype: torch.dtype | None, *arguments: "Tensor | ctypes.Array[ctypes.c_int64] | float | None"
) -> None:
    """Call a kernel, that of a dtype where it has several; tensors are contiguous, or what their strides say."""
    kernels = library()
    assert kernels is not None
    function = getattr(kernels, name if dtype is None else f"{name}_{TYPES[dtype]}")
    function(*(argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments))


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they are switched off or cannot be compiled, which is said once."""
    compiler = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    missing = shutil.which(compiler[0]) is None
    if not switch_from("PROLOGUE_KERNELS", default=True) or missing:
        _explain(f"no C++ compiler: {compiler[0]} not found" if missing else "PROLOGUE_KERNELS=off")
        return None
    path = user_cache_path("prologue") / "kernels" / f"{_identity(compiler)}.so"
    try:
        if not path.is_file():
            _compile(compiler, path)
        kernels = ctypes.CDLL(str(path))
    except (subprocess.CalledProcessError, OSError) as error:
        _explain(f"{error} {getattr(error, 'stderr', '')}".strip())
        return None
    for name, pattern in ARGUMENTS.items():
        for variant in [name] if hasattr(kernels, name) else [f"{name}_{kind}" for kind in TYPES.values()]:
            function = getattr(kernels, variant)
            function.argtypes, function.restype = [C_TYPES[kind] for kind in pattern], None
    return kernels


def _compile(compiler: list[str], path: Path) -> None:
    """Compile to `path`, which two processes may do at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        # linked without OpenMP's own library: the one that PyTorch has loaded serves, with its number of threads
        for step in ([*FLAGS, "-c", str(SOURCE), "-o", f"{built}.o"], ["-shared", f"{built}.o", "-o", str(built)]):
            subprocess.run([*compiler, *step], capture_output=True, text=True, check=True)
        built.replace(path)


def _explain(reason: str) -> None:
    if is_main_process():
        print(f"CPU kernels are not used ({reason}): PyTorch's own operations are slower", file=sys.stderr)


def _identity(compiler: list[str]) -> str:
    """What the compiled file depends on: source, flags, compiler and CPU."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout
    parts = [SOURCE.read_text(), *FLAGS, version, cpu_identity()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
