"""What a GPU makes of this project, in at most ten minutes and without a download: `make gpu-check`.

    python benchmarks/gpu.py

Gradients of a step of both training stages at B size against those of the CPU, steps per second eager and compiled
against a plain fp32 loop of the same models, sampling against a textbook sampler and the card's memory, peak memory
beside what `prologue describe --gpus` estimates, a training that is interrupted and goes on, and two processes where
there are two GPUs. Prints a table and writes reports/benchmarks/gpu.json. Ends with status 1 where a check failed.

Each part runs in a process of its own, `python benchmarks/gpu.py PART ...`, which prints its result as JSON.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from full_size import OVERRIDES
from plain import PlainStage1, PlainStage2, torch_alone
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from sampling import GUIDANCE, SIZE, VOCABULARY, straightforward
from sitting import seconds_of
from steps import take_step

from prologue.core.files import write_json
from prologue.core.machine import cpu_name
from prologue.core.params import Params
from prologue.core.runtime import start_accelerator
from prologue.core.variants import apply_overrides, load_variants
from prologue.data.shards import write_shards
from prologue.models.ar import ARConfig, ARModel
from prologue.models.saved import save_model
from prologue.models.tokenizer import Tokenizer
from prologue.pipeline.memory import estimate
from prologue.sampling import Choices
from prologue.sampling.decoding import for_inference
from prologue.sampling.generation import TokenSampler
from prologue.tokens.encoding import write_tokens
from prologue.training.ar import ARTask
from prologue.training.plan import plan_tokenizer
from prologue.training.tokenizer import TokenizerTask, tokenizer_config

OUTPUT = Path("reports/benchmarks/gpu.json")
TRAINING = Path(__file__).parents[1] / "tests" / "training_run.py"
COMPILED = {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR", "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "true"}
TOLERANCE = 1e-3  # of gradients in fp32: |GPU - CPU| / |CPU|, over all parameters of a network
TARGETS = {"share_of_memory_limit": 0.6, "stage1_times_faster": 2.0}
WARMUP, STEPS, BATCH, IMAGES = 5, 10, 16, 256
TASKS = {"stage1": "tokenizer", "stage2": "ar"}


def main() -> None:
    if sys.argv[1:]:
        print(json.dumps(PARTS[sys.argv[1]](*map(Path, sys.argv[2:]))))
        return
    if not torch.cuda.is_available():
        sys.exit("no GPU here: PyTorch finds no CUDA device. Nothing was checked and nothing written.")
    properties = torch.cuda.get_device_properties(0)
    result: dict[str, Any] = {
        "gpu": properties.name,
        "gpus": torch.cuda.device_count(),
        "gpu_memory_gb": round(properties.total_memory / 1e9, 1),
        "cpu": cpu_name(),
        "torch": torch.__version__,
    }
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        result |= part("data", data)
        result["gradients"] = compared_gradients(data)
        result["steps"] = {
            "eager": part("steps", data),
            "compiled": part("steps", data, env=COMPILED),
            "plain": part("plain_steps", data),
        }
        result["sampling"] = part("sampling")
        result["resumed"] = resumed(data)
        result["two_processes"] = two_processes(data) if torch.cuda.device_count() > 1 else "one GPU: not run"
    result["seconds"] = round(time.perf_counter() - began)
    failed = show(result)
    write_json(OUTPUT, result | {"failed": failed})
    print(f"{OUTPUT}: please send it to the project, whichever way it turned out")
    sys.exit(bool(failed))


def part(name: str, *words: Path, env: dict[str, str] | None = None) -> dict[str, Any]:
    """The result of a part in a process of its own; what it printed where it failed."""
    command = [sys.executable, __file__, name, *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | (env or {}))
    if ran.returncode:
        return {"failed": (ran.stderr.strip().splitlines() or ["it died without a word"])[-1]}
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def params_of(batch: int, precision: str) -> Params:
    """Prologue B-B on the embedded images, with the perceptual network that ships."""
    own = {"stage1.batch": batch, "ar.batch": batch, "precision": precision}
    return apply_overrides(load_variants(["imagenet_b_b"]) | OVERRIDES | own)


def make_data(folder: Path) -> dict[str, Any]:
    """Shards, and the tokens of an untrained tokenizer."""
    params = params_of(BATCH, "fp32").model_copy()
    data = params.data.model_copy(update={"train_limit": 4 * BATCH})
    write_shards(data, params.seed, folder / "shards")
    torch.manual_seed(0)
    save_model(folder / "tokenizer", Tokenizer(tokenizer_config(plan_tokenizer(params))))
    write_tokens(params, folder / "tokenizer", folder / "shards", folder / "tokens")
    return {}


def task_of(stage: str, params: Params, data: Path) -> Any:
    """A training stage before its first step, with the same weights on every device."""
    accelerator = start_accelerator()
    if stage == "stage2":
        return ARTask(params, data / "tokens", accelerator)
    torch.manual_seed(0)
    plan = plan_tokenizer(params)
    return TokenizerTask(plan, data / "shards", Tokenizer(tokenizer_config(plan)), accelerator)


def gradients(data: Path, output: Path) -> dict[str, Any]:
    """Write the gradients of the first step of both stages, fp32, two images."""
    tensors = {}
    for stage in TASKS:
        task = task_of(stage, params_of(2, "fp32"), data)
        task.gradients(0, next(task.batches(0)))
        for name, module in task.state.modules.items():
            for key, parameter in module.named_parameters():
                if parameter.grad is not None:
                    tensors[f"{stage}/{name}/{key}"] = parameter.grad.detach().cpu().contiguous()
    save_file(tensors, output)
    return {}


def compared_gradients(data: Path) -> dict[str, Any]:
    """How far gradients of the GPU are from those of the CPU, by network."""
    on_cpu, on_gpu = data / "cpu.safetensors", data / "gpu.safetensors"
    for output, env in ((on_gpu, {}), (on_cpu, {"CUDA_VISIBLE_DEVICES": ""})):
        made = part("gradients", data, output, env=env)
        if made:
            return made
    expected, got = load_file(on_cpu), load_file(on_gpu)
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
    worst = max(far.values())
    return {"relative_difference": far, "tolerance": TOLERANCE} | (
        {} if worst <= TOLERANCE else {"failed": f"gradients differ by {worst:.2g}, more than {TOLERANCE}"}
    )


def step_seconds(step: Callable[[int], object], device: torch.device) -> float:
    """Median seconds of some steps after others that are not timed; none is one of the R1 penalty."""
    seconds = [seconds_on(device, partial(step, number)) for number in range(1, 1 + WARMUP + STEPS)]
    return statistics.median(seconds[WARMUP:])


def seconds_on(device: torch.device, work: Callable[[], object]) -> float:
    """Wall time of a call until the device has done it."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def whole() -> None:
        work()
        wait()

    wait()
    return seconds_of(whole)


def steps(data: Path) -> dict[str, Any]:
    """Steps per second of both stages in bf16, and their peak memory beside the estimate."""
    found: dict[str, Any] = {}
    for stage, name in TASKS.items():
        params = params_of(BATCH, "bf16")
        task = task_of(stage, params, data)
        device, batches = task.accelerator.device, list(islice(task.batches(0), 4))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

        def step(number: int, task: Any = task, batches: list[Any] = batches) -> None:
            take_step(task, number, batches[number % len(batches)])

        seconds = step_seconds(step, device)
        memory = estimate(params, classes=10, gpus=1)[name][0].total(BATCH)
        found[stage] = {"steps_per_second": round(1 / seconds, 2), "estimated_gb": round(memory / 1e9, 2)}
        if device.type == "cuda":
            found[stage]["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        del task, step
    return found


def plain_steps(data: Path) -> dict[str, Any]:
    """Steps per second of a plain fp32 eager loop of the same models."""
    params, accelerator = params_of(BATCH, "fp32"), start_accelerator()
    device, plan = accelerator.device, plan_tokenizer(params)
    assert plan.joint_ar is not None
    images = [batch[0].to(device) for batch in islice(task_of("stage1", params, data).batches(0), 4)]
    tokens = task_of("stage2", params, data)
    batches = list(islice(tokens.batches(0), 4))
    with torch.device(device), torch_alone():
        tokenizer, average = (Tokenizer(tokenizer_config(plan)) for _ in range(2))
        config = ARConfig(vocabulary=tokenizer.vocabulary(10), transformer=plan.joint_ar.transformer)
        stage1 = PlainStage1(plan.stage1, plan.joint_ar, tokenizer, ARModel(config), average)
        first = step_seconds(lambda number: stage1.step(number, images[number % 4]), device)
        stage2 = PlainStage2(params.ar, ARModel(tokens.model.config), ARModel(tokens.model.config))
        second = step_seconds(lambda number: stage2.step(*on(device, batches[number % 4])), device)
    return {
        "stage1": {"steps_per_second": round(1 / first, 2)},
        "stage2": {"steps_per_second": round(1 / second, 2)},
    }


def on(device: torch.device, batch: Any) -> Iterator[Any]:
    """A batch of tokens and labels on a device."""
    tokens, labels = batch
    yield type(tokens)(*(None if ids is None else ids.to(device) for ids in tokens))
    yield labels.to(device)


@torch.no_grad()
def sampling() -> dict[str, Any]:
    """AR-B with guidance in bf16 against a textbook fp32 sampler, and against one read of weights and cache a token."""
    device = start_accelerator().device
    torch.manual_seed(0)
    ar = ARModel(ARConfig(vocabulary=VOCABULARY, transformer=SIZE)).to(device).eval()
    classes, seeds = torch.arange(IMAGES, device=device), [(0, image) for image in range(IMAGES)]
    sampler, plain = TokenSampler(ar, GUIDANCE, Choices(), torch.bfloat16), for_inference(ar)
    seconds = {}
    works: dict[str, Callable[[], object]] = {
        "own": lambda: sampler.sample(classes, seeds),
        "textbook": lambda: straightforward(plain, classes[:64]),
    }
    for name, work in works.items():
        work()  # graphs are captured once
        seconds[name] = seconds_on(device, work)
    speed = bandwidth(device)
    positions = sum(range(1, VOCABULARY.length + 1))
    blocks = -(-IMAGES // sampler.block)
    cache = sampler.decoder.cache.nbytes / VOCABULARY.length * positions * blocks
    weights = 2 * sum(parameter.numel() for parameter in ar.transformer.parameters()) * VOCABULARY.length * blocks
    limit = (cache + weights) / speed
    return {
        "images": IMAGES,
        "block": sampler.block,
        "images_per_second": round(IMAGES / seconds["own"], 1),
        "textbook_images_per_second": round(64 / seconds["textbook"], 1),
        "memory_gb_per_second": round(speed / 1e9),
        "share_of_memory_limit": round(limit / seconds["own"], 2),
    }


def bandwidth(device: torch.device) -> float:
    """Bytes that the device reads from its memory per second: of a large sum."""
    numbers = torch.ones(2**28, device=device)
    return numbers.nbytes / min(seconds_on(device, numbers.sum) for _ in range(10))


def resumed(data: Path) -> dict[str, Any]:
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
    training(stopped, words).wait()
    return differing(alone, stopped) | {"stopped_at": checkpoints[-1] if checkpoints else "no checkpoint"}


def two_processes(data: Path) -> dict[str, Any]:
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


def differing(one: Path, two: Path) -> dict[str, Any]:
    """The largest difference between two trained tokenizers."""
    try:
        expected, got = (load_file(folder / "tokenizer" / "model.safetensors") for folder in (one, two))
    except FileNotFoundError as error:
        return {"failed": f"no tokenizer was trained: {error.filename}"}
    return {"largest_difference": max((got[name] - tensor).abs().max().item() for name, tensor in expected.items())}


def show(result: dict[str, Any]) -> list[str]:
    """Print a table; returns the parts that failed."""
    table = Table("part", "found", "asked", title=f"{result['gpu']}, {result['seconds']} s")
    failed = [name for name, found in result.items() if isinstance(found, dict) and "failed" in found]
    failed += [f"steps {how}" for how, found in result["steps"].items() if "failed" in found]
    for name in failed:
        own = result["steps"][name.split()[1]] if name.startswith("steps ") else result[name]
        table.add_row(name, f"failed: {own['failed']}", "")
    for network, far in result["gradients"].get("relative_difference", {}).items():
        table.add_row(f"gradients, {network}", f"{far:.2g} from the CPU's", f"at most {TOLERANCE}")
    plain = result["steps"]["plain"]
    for how in ("eager", "compiled"):
        for stage, found in result["steps"][how].items():
            if stage in plain:
                times = found["steps_per_second"] / plain[stage]["steps_per_second"]
                found["times_faster"] = round(times, 2)
                asked = f"{TARGETS['stage1_times_faster']} x" if stage == "stage1" else ""
                table.add_row(f"{stage}, {how}", f"{found['steps_per_second']} steps/s, {times:.2f} x plain", asked)
                table.add_row("", f"peak {found.get('peak_gb')} GB, estimated {found['estimated_gb']}", "")
    drawn = result["sampling"]
    if "failed" not in drawn:
        share = f"{drawn['share_of_memory_limit']:.0%} of the memory's limit"
        times = drawn["images_per_second"] / drawn["textbook_images_per_second"]
        found = f"{drawn['images_per_second']} images/s, {times:.1f} x a textbook sampler, {share}"
        table.add_row("sampling AR-B", found, f"{TARGETS['share_of_memory_limit']:.0%}")
    table.add_row("stopped and resumed", str(result["resumed"]), "")
    table.add_row("two processes", str(result["two_processes"]), "")
    Console().print(table)
    return failed


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "data": make_data,
    "gradients": gradients,
    "steps": steps,
    "plain_steps": plain_steps,
    "sampling": sampling,
}


if __name__ == "__main__":
    main()
