"""What a GPU makes of this project, in at most ten minutes and without a download: `make gpu-check`.

    python benchmarks/gpu.py

The authors' numbers (tests/published); ids drawn by AR-B and gradients of a step of both training stages at B size
against those of the CPU; steps per second eager and compiled against a plain fp32 loop of the same models; the training
of AR-L against the card's matrix products; sampling against a textbook sampler and the card's memory; peak memory
beside what `prologue describe --gpus` estimates; a training that is interrupted and goes on, and two processes where
there are two GPUs. Prints a table and writes reports/benchmarks/gpu.json. Ends with status 1 where a check failed.

Each part runs in a process of its own (benchmarks/gpu_parts.py); where one fails, the others run all the same.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from prologue.core.files import write_json
from prologue.core.machine import cpu_name

OUTPUT = Path("reports/benchmarks/gpu.json")
PARTS = Path(__file__).with_name("gpu_parts.py")
TRAINING = Path(__file__).parents[1] / "tests" / "training_run.py"
EAGER = {"PROLOGUE_COMPILE": "off"}
COMPILED = {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR", "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "true"}
TOLERANCES = {  # in fp32
    "gradients": 1e-3,  # |GPU - CPU| / |CPU|, over all parameters of a network
    "published": 1e-3,  # of reconstructions and of logits, as a share of the largest
    "sampled": 0.25,  # share of images with another id than the CPU's: one close call changes all that follow
    "weights": 1e-4,  # sums are in another order
}
TARGETS = {"share_of_memory_limit": 0.6, "share_of_matrix_rate": 0.45, "stage1_times_faster": 2.0}
Found = dict[str, Any]


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("no GPU here: PyTorch finds no CUDA device. Nothing was checked and nothing written.")
    properties = torch.cuda.get_device_properties(0)
    result: Found = {
        "gpu": properties.name,
        "gpus": torch.cuda.device_count(),
        "gpu_memory_gb": round(properties.total_memory / 1e9, 1),
        "cpu": cpu_name(),
        "torch": torch.__version__,
    }
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        result["data"] = part("data", data)
        result["published"] = as_published()
        result["sampled_ids"] = sampled_alike(data)
        result["gradients"] = compared_gradients(data)
        result["steps"] = {
            "eager": part("steps", data, env=EAGER),
            "compiled": part("steps", data, env=COMPILED),
            "plain": part("plain_steps", data),
        }
        result["matrix_rate"] = part("matrix_rate", data)
        result["sampling"] = part("sampling")
        result["resumed"] = resumed(data)
        result["two_processes"] = two_processes(data) if torch.cuda.device_count() > 1 else "one GPU: not run"
    result["seconds"] = round(time.perf_counter() - began)
    failed = show(result)
    write_json(OUTPUT, result | {"failed": failed})
    print(f"{OUTPUT}: please send it to the project, whichever way it turned out")
    sys.exit(bool(failed))


def part(name: str, *words: Path, env: dict[str, str] | None = None) -> Found:
    """The result of a part in a process of its own; what it printed where it failed."""
    command = [sys.executable, str(PARTS), name, *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | (env or {}))
    if ran.returncode:
        return {"failed": (ran.stderr.strip().splitlines() or ["it died without a word"])[-1]}
    found: Found = json.loads(ran.stdout.splitlines()[-1])
    return found


def on_both(name: str, data: Path, *words: Path) -> tuple[Found, list[dict[str, torch.Tensor]]]:
    """The tensors that a part writes to a file on the GPU, and on the CPU; first, where it failed, what it said."""
    written = []
    for device, env in (("gpu", {}), ("cpu", {"CUDA_VISIBLE_DEVICES": ""})):
        output = data / f"{name}_{device}.safetensors"
        if failed := part(name, *words, output, env=EAGER | env):
            return failed, []
        written.append(load_file(output))
    return {}, written


def compared_gradients(data: Path) -> Found:
    """How far gradients of the GPU are from those of the CPU, by network."""
    failed, written = on_both("gradients", data, data)
    if failed:
        return failed
    got, expected = written
    groups: dict[str, list[str]] = {}
    for name in expected:
        groups.setdefault("/".join(name.split("/")[:2]), []).append(name)
    far = {}
    for group, names in groups.items():
        difference, size = (
            torch.cat([tensors.flatten() for tensors in parts]).norm()
            for parts in ([got[name] - expected[name] for name in names], [expected[name] for name in names])
        )
        far[group] = (difference / size).item()
    return judged({"relative_difference": far}, "gradients", max(far.values()))


def judged(found: Found, tolerance: str, difference: float) -> Found:
    """What was found, marked as failed where it differs too much."""
    limit = TOLERANCES[tolerance]
    wrong = {} if difference <= limit else {"failed": f"differs by {difference:.2g}, more than {limit}"}
    return found | {"tolerance": limit} | wrong


def as_published() -> Found:
    """Ids, images and logits of the fixtures of tests/published against the authors' numbers."""
    found = part("published")
    if "failed" in found:
        return found
    if not found["ids_equal"]:
        return found | {"failed": "ids are not the authors'"}
    return judged(found, "published", max(found["reconstruction"], found["logits"]))


def sampled_alike(data: Path) -> Found:
    """The share of images that AR-B draws on the GPU, from the same seeds in fp32, with all ids of the CPU's."""
    failed, drawn = on_both("sampled_ids", data)
    if failed:
        return failed
    same = (drawn[0]["ids"] == drawn[1]["ids"]).all(dim=1).float().mean().item()
    return judged({"images_equal": same}, "sampled", 1 - same)


def resumed(data: Path) -> Found:
    """A toy training that gets SIGTERM and goes on, against one left alone: the largest difference of weights."""
    words = [str(data / "shards"), "tokenizer", "stage1.steps=60", "stage1.checkpoint_every=1000", "stage1.log_every=2"]
    alone, stopped = data / "alone", data / "stopped"
    for folder in (alone, stopped):
        folder.mkdir()
    training(alone, words).wait()
    process = training(stopped, words)
    curve = "curves/plots/metrics/train/l1.tsv"
    while process.poll() is None and not list(stopped.glob(f".work/tokenizer/*/{curve}")):
        time.sleep(0.05)
    process.terminate()
    process.wait()
    checkpoints = sorted(path.name for path in stopped.glob(".work/tokenizer/*/step_*"))
    if not checkpoints:
        return {"failed": "it left no checkpoint when it got SIGTERM"}
    training(stopped, words).wait()
    return differing(alone, stopped) | {"stopped_at": checkpoints[-1]}


def two_processes(data: Path) -> Found:
    """A toy training on two GPUs against one: the largest difference of weights after a few steps."""
    words = [str(data / "shards"), "tokenizer", "stage1.steps=4"]
    one, two = data / "one", data / "two"
    for folder in (one, two):
        folder.mkdir()
    training(one, words).wait()
    training(two, words, ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]).wait()
    return differing(one, two)


def training(folder: Path, words: list[str], launch: list[str] | None = None) -> subprocess.Popen[bytes]:
    """A training of the tests at toy size, in a folder."""
    command = [sys.executable, *(launch or []), str(TRAINING), *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def differing(one: Path, two: Path) -> Found:
    """The largest difference between two trained tokenizers."""
    try:
        expected, got = (load_file(folder / "tokenizer" / "model.safetensors") for folder in (one, two))
    except FileNotFoundError as error:
        return {"failed": f"no tokenizer was trained: {error.filename}"}
    far = max((got[name] - tensor).abs().max().item() for name, tensor in expected.items())
    return judged({"largest_difference": far}, "weights", far)


def show(result: Found) -> list[str]:
    """Print a table; returns the parts that failed."""
    table = Table("part", "found", "asked", title=f"{result['gpu']}, {result['seconds']} s")
    failed = [name for name, found in result.items() if isinstance(found, dict) and "failed" in found]
    failed += [f"steps {how}" for how, found in result["steps"].items() if "failed" in found]
    for name in failed:
        own = result["steps"][name.split()[1]] if name.startswith("steps ") else result[name]
        table.add_row(name, f"failed: {own['failed']}", "")
    for network, far in result["gradients"].get("relative_difference", {}).items():
        table.add_row(f"gradients, {network}", f"{far:.2g} from the CPU's", f"at most {TOLERANCES['gradients']}")
    plain = result["steps"]["plain"]
    for how in ("eager", "compiled"):
        for stage, found in result["steps"][how].items():
            if "failed" not in plain and stage in plain:
                times = found["steps_per_second"] / plain[stage]["steps_per_second"]
                found["times_faster"] = round(times, 2)
                asked = f"{TARGETS['stage1_times_faster']} x" if stage == "stage1" else ""
                table.add_row(f"{stage}, {how}", f"{found['steps_per_second']} steps/s, {times:.2f} x plain", asked)
                table.add_row("", f"peak {found.get('peak_gb')} GB, estimated {found['estimated_gb']}", "")
    trained = result["matrix_rate"]
    if "failed" not in trained:
        share = f"{trained['tflops']} TFLOP/s, {trained['share_of_matrix_rate']:.0%} of what products reach"
        table.add_row(f"stage2, AR-L, {trained['images']} images", share, f"{TARGETS['share_of_matrix_rate']:.0%}")
    drawn = result["sampling"]
    if "failed" not in drawn:
        share = f"{drawn['share_of_memory_limit']:.0%} of the memory's limit"
        times = drawn["images_per_second"] / drawn["textbook_images_per_second"]
        found = f"{drawn['images_per_second']} images/s, {times:.1f} x a textbook sampler, {share}"
        table.add_row("sampling AR-B", found, f"{TARGETS['share_of_memory_limit']:.0%}")
    for name in ("published", "sampled_ids", "resumed", "two_processes"):
        if name not in failed:
            table.add_row(name.replace("_", " "), str(result[name]), "")
    Console().print(table)
    return failed


if __name__ == "__main__":
    main()
