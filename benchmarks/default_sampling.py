"""2,000 images of the default size (params.yaml; guidance on) against the code of an earlier commit, in one run.

    python benchmarks/default_sampling.py [COMMIT]     # default: the last one before the CPU kernels

Both sides draw ids with a model of the same random weights, in a process of their own, in turns: ours in the precision
that `auto` is on this machine, the earlier code in fp32, its default. Medians. Writes
reports/benchmarks/default_sampling.json.
"""

import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from sitting import Sitting

from prologue.core.precision import faster_precision
from prologue.core.runtime import start_accelerator

BEFORE = "27f5723"
IMAGES, ROUNDS = 2000, 2
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
DRAW = f"""
import sys, time, torch
from prologue.core.launch import own_cores
from prologue.core.params import TransformerParams
from prologue.core.params_file import load_params
from prologue.models.ar import ARConfig, ARModel
from prologue.models.vocabulary import Vocabulary
from prologue.sampling import Choices
from prologue.sampling.generation import TokenSampler
from prologue.sampling.images import guidance_of

torch.set_num_threads(own_cores())
torch.manual_seed(0)
params = load_params()
grid = params.data.image_size // params.tokenizer.patch
vocabulary = Vocabulary(
    visual_codebook=params.tokenizer.codebook, prologue_codebook=params.prologue.codebook,
    visual_tokens=grid**2, prologue_tokens=params.prologue.tokens, classes=10,
)
size = TransformerParams(layers=params.ar.layers, dim=params.ar.dim)
ar = ARModel(ARConfig(vocabulary=vocabulary, transformer=size)).eval()
sampler = TokenSampler(ar, guidance_of(params.sampling.cfg), Choices(), getattr(torch, sys.argv[1]))
classes = torch.arange({IMAGES}) % 10
began = time.perf_counter()
sampler.sample(classes, [(0, image) for image in range({IMAGES})])
print(time.perf_counter() - began)
"""


def seconds(root: Path, precision: str) -> float:
    """Seconds that the code in a folder takes."""
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    drawn = subprocess.run(
        [sys.executable, "-c", DRAW, DTYPES[precision]],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(drawn.stdout.split()[-1])


def main() -> None:
    commit = sys.argv[1] if len(sys.argv) > 1 else BEFORE
    precision = faster_precision(start_accelerator())
    archive = subprocess.run(["git", "archive", commit, "src", "params.yaml"], stdout=subprocess.PIPE, check=True)
    with tempfile.TemporaryDirectory() as folder, Sitting() as sitting:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
            packed.extractall(folder, filter="data")
        measured: dict[str, list[float]] = {"own": [], "before": []}
        for _ in range(ROUNDS):
            measured["own"].append(seconds(Path.cwd(), precision))
            measured["before"].append(seconds(Path(folder), "fp32"))
    medians = {side: statistics.median(values) for side, values in measured.items()}
    sitting.write(
        "default_sampling",
        {
            "images": IMAGES,
            "precision": precision,
            "before": commit,
            "own_images_per_second": round(IMAGES / medians["own"], 1),
            "before_images_per_second": round(IMAGES / medians["before"], 1),
            "times_faster": round(medians["before"] / medians["own"], 2),
        },
    )


if __name__ == "__main__":
    main()
