"""What ImageNet takes, estimated from what the other benchmarks measured: writes docs/imagenet.md.

python benchmarks/imagenet_estimate.py     # after sharding.py, loading.py, token_reading.py and full_size.py
"""

from pathlib import Path
from typing import Any

from prologue.core.files import read_json, replacing
from prologue.core.variants import apply_overrides, load_variants
from prologue.pipeline.describe import describe

REPORTS = Path("reports/benchmarks")
OUTPUT = Path("docs/imagenet.md")
TRAIN, VAL, CROPS = 1_281_167, 50_000, 10
SOURCE_GB = 144.3  # ILSVRC2012: 138.0 of training and 6.3 of validation images
OVERHEAD_KB = 3  # headers, class and path beside an image in its shard
GPU_TFLOPS = 19.5  # peak of an A100 in fp32, in which the stage encodes: bf16 would move ids


def main() -> None:
    measured = {path.stem: read_json(path) for path in REPORTS.glob("*.json")}
    with replacing(OUTPUT) as temporary:
        temporary.write_text(page(measured))
    print(OUTPUT.read_text())


def page(measured: dict[str, Any]) -> str:
    """The document."""
    steps = measured["full_size"]
    lines = [
        "# What ImageNet takes",
        "",
        "**Estimates.** Nothing here was run on ImageNet or on a GPU. `python benchmarks/imagenet_estimate.py`",
        f"computed this page from what the benchmarks measured on {steps['cores']} cores of an {steps['cpu']}",
        "(`reports/benchmarks/`), for",
        f"{TRAIN:,} training and {VAL:,} validation images.",
        "",
        "| stage | time | disk | memory |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows(measured)),
        "",
        "Training itself, from the paper (App. E, on A100s): Stage 1 about 30 hours (Base) or 44 (Large) on 8 of them,",
        "Stage 2 about 13 hours (AR B) or 25 (AR L) on 8, AR XL about 25 hours on 32.",
        "",
        "The stages compare with the 50,000 validation images. What the paper reports is against ADM's file:",
        "`prologue evaluate data/samples/cfg.npz --reference VIRTUAL_imagenet256_labeled.npz`. sFID is not computed.",
        "",
        "Full-size steps on 2 CPU cores, batch 2, fp32, measured: one Stage-1 step "
        f"{steps['stage1_step_seconds']} s, one Stage-2 step {steps['stage2_step_seconds']} s,",
        f"two samples with guidance {steps['sample_2_images_seconds']} s, "
        f"at most {steps['sample_2_images_peak_memory_mb'] / 1000:.1f} GB of memory.",
    ]
    return "\n".join(lines) + "\n"


def rows(measured: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The table: stage, time, disk, memory."""
    images, crops = TRAIN + VAL, TRAIN * CROPS + VAL
    sharding, memory = measured["sharding"]["photographs"]["own_images_per_second"], measured["sharding"]["many"]
    loading, reading = measured["loading"]["images_per_second"], measured["token_reading"]["own_images_per_second"]
    described = describe(apply_overrides(load_variants(["imagenet_b_b"])), classes=1000)
    cache_gb = crops * (described.vocabulary.prologue_tokens + described.vocabulary.visual_tokens) * 2 / 1e9
    encoder = next(part.flops for part in described.parts if part.name == "encoder")
    gpu_hours = crops * encoder / (GPU_TFLOPS * 1e12) / 3600
    return [
        (
            "`shards`, from any source",
            f"{images / sharding / 60:.0f} min on 2 cores ({sharding:,} images/s; it scales with the cores)",
            f"{SOURCE_GB + images * OVERHEAD_KB / 1e6:.0f} GB beside the source's {SOURCE_GB:.0f} GB",
            f"{memory['largest_process_mb']} MB in the largest process, measured on {memory['images']:,} images; "
            "the list of files is on disk",
        ),
        (
            "`tokenizer`, images for it",
            f"{loading['fast']:,} crops/s per core with `augment.decoder: fast`, {loading['exact']:,} exact",
            "",
            f"index of all images: {images * 4 * 8 / 1e6:.0f} MB per process",
        ),
        (
            "`tokens`, ten crops, Base tokenizer",
            f"{gpu_hours:.0f} h or more on one A100, whose peak in fp32 is {GPU_TFLOPS} TFLOP/s, from "
            f"{encoder / 1e9:.1f} GFLOPs per crop; shared out over the GPUs of a launch",
            f"{cache_gb:.1f} GB",
            "one shard at a time",
        ),
        (
            "`ar`, reading tokens",
            f"{reading:,} images/s: an epoch in {TRAIN / reading:.1f} s, so never the bottleneck",
            "",
            f"memory-mapped: the {cache_gb:.1f} GB stay in the page cache if they fit",
        ),
    ]


if __name__ == "__main__":
    main()
