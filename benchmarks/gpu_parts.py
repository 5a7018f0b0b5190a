"""What `benchmarks/gpu.py` runs in processes of their own, on whichever device there is, and prints as JSON.

python benchmarks/gpu_parts.py PART [FOLDER ...]
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from full_size import OVERRIDES
from plain import PlainStage1, PlainStage2, torch_alone
from safetensors.torch import save_file
from sampling import GUIDANCE, SIZE, VOCABULARY, straightforward
from sitting import seconds_of
from steps import take_step

from prologue.core.params import Params
from prologue.core.runtime import start_accelerator
from prologue.core.variants import apply_overrides, load_variants
from prologue.data.shards import write_shards
from prologue.interop.published import load_ar, load_tokenizer
from prologue.models.ar import ARConfig, ARModel
from prologue.models.saved import save_model
from prologue.models.tokenizer import Tokenizer
from prologue.pipeline.describe import describe
from prologue.pipeline.memory import estimate
from prologue.sampling import Choice, Choices, Guidance, generate
from prologue.sampling.decoding import for_inference
from prologue.sampling.generation import TokenSampler
from prologue.tokens.encoding import write_tokens
from prologue.training.ar import ARTask
from prologue.training.plan import plan_tokenizer
from prologue.training.tokenizer import TokenizerTask, tokenizer_config

PUBLISHED = Path(__file__).parents[1] / "tests" / "published"
WARMUP, STEPS, BATCH, IMAGES = 5, 10, 16, 256
AR_L = {"layers": 24, "dim": 1024}
TASKS = {"stage1": "tokenizer", "stage2": "ar"}


def main() -> None:
    print(json.dumps(PARTS[sys.argv[1]](*map(Path, sys.argv[2:]))))


def params_of(batch: int, precision: str, **size: int) -> Params:
    """Prologue B-B on the embedded images, with the perceptual network that ships; `size` is of the AR model."""
    own = {"stage1.batch": batch, "ar.batch": batch, "precision": precision} | {f"ar.{k}": v for k, v in size.items()}
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


def matrix_rate(data: Path) -> dict[str, Any]:
    """Floating-point operations per second of Stage 2 of AR-L in bf16, beside those of products alone."""
    device, most = start_accelerator().device, 2
    if device.type == "cuda":
        memory = 0.95 * torch.cuda.get_device_properties(device).total_memory / 1e9
        most = estimate(params_of(64, "bf16", **AR_L), classes=10, gpus=1)["ar"][0].fitting(64, memory)
    params = params_of(most, "bf16", **AR_L)
    task = task_of("stage2", params, data)
    batches = list(islice(task.batches(0), 4))
    seconds = step_seconds(lambda number: take_step(task, number, batches[number % len(batches)]), device)
    forward = next(part.flops for part in describe(params, classes=10).parts if part.name == "AR")
    rate = 3 * most * forward / seconds  # backward takes twice as many
    side = 8192 if device.type == "cuda" else 1024
    square = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    products = 2 * side**3 / step_seconds(lambda number: square @ square, device)
    return {
        "images": most,
        "compiled": task.compiled,
        "tflops": round(rate / 1e12, 3),
        "matrix_tflops": round(products / 1e12, 3),
        "share_of_matrix_rate": round(rate / products, 2),
    }


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


@torch.no_grad()
def published() -> dict[str, Any]:
    """How far the fixtures of tests/published (EMA weights) are from the authors' numbers, as a share of the largest.

    Also whether all ids are theirs.
    """
    device, greedy = start_accelerator().device, Choices(Choice(top_k=1), Choice(top_k=1))
    far, same = {"reconstruction": 0.0, "logits": 0.0}, True

    def compare(name: str, got: torch.Tensor, authors: torch.Tensor) -> None:
        far[name] = max(far[name], ((got.cpu() - authors).abs().max() / authors.abs().max()).item())

    for folder in sorted(path.parent for path in PUBLISHED.glob("*/expected.npz")):
        loaded = dict(np.load(folder / "expected.npz"))
        spec = json.loads(str(loaded.pop("cfg_spec")))
        expected = {name: torch.from_numpy(values) for name, values in loaded.items() if values.ndim}
        tokenizer = load_tokenizer(folder)
        ar = load_ar(folder, tokenizer).to(device)
        tokens = tokenizer.to(device).encode(expected["images"].to(device))
        ids = torch.cat([part for part in tokens if part is not None], dim=1)
        same &= torch.equal(ids.cpu(), expected["ema_token_ids"])
        compare("reconstruction", tokenizer.decode(tokens.visual), expected["ema_reconstruction"])
        prologue, visual = ar.vocabulary.split(expected["ar_input_ids"].to(device))
        compare("logits", ar(prologue, visual, expected["ar_classes"].to(device)), expected["ar_logits"])
        guidance = Guidance(spec.get("prologue_scale", 1.0), spec["visual_scale"], spec["visual_power"])
        drawn = generate(ar, expected["sample_classes"].to(device), guidance, greedy)
        same &= torch.equal(ar.vocabulary.sequence(*drawn).cpu(), expected["greedy_cfg_ids"])
    return {"ids_equal": same} | far


def sampled_ids(output: Path) -> dict[str, Any]:
    """Write the ids of some images that AR-B draws with guidance in fp32."""
    device = start_accelerator().device
    torch.manual_seed(0)
    ar = ARModel(ARConfig(vocabulary=VOCABULARY, transformer=SIZE)).to(device).eval()
    drawn = generate(ar, torch.arange(8, device=device), GUIDANCE)
    save_file({"ids": VOCABULARY.sequence(*drawn).cpu()}, output)
    return {}


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "data": make_data,
    "gradients": gradients,
    "steps": steps,
    "plain_steps": plain_steps,
    "matrix_rate": matrix_rate,
    "sampling": sampling,
    "sampled_ids": sampled_ids,
    "published": published,
}


if __name__ == "__main__":
    main()
