"""Linear probe: what a linear classifier reads from the mean of an image's prologue tokens or first visual tokens."""

from pathlib import Path
from typing import Any

from prologue.core.params import Params
from prologue.probe.fast import run_fast_probe
from prologue.probe.mae import run_mae_probe


def run_probe(params: Params, attached: Path, shards: Path, curves: Path) -> dict[str, Any]:
    """Train linear classifiers of the frozen tokenizer's features by `probe.protocol`, and test them.

    Args:
        attached: folder of the tokenizer.
        shards: its training and validation images.
        curves: folder for the training curves; empty after the fast protocol, which has none.

    Returns:
        prologue_FEATURE_PROTOCOL_top1 and _top5 (absent without a prologue), visual_firstN_FEATURE_PROTOCOL_top1 and
        _top5, where N is prologue.tokens, FEATURE probe.feature and PROTOCOL probe.protocol; shares of all validation
        images. Then the protocol in words, and what else its training says of itself.
    """
    run = run_mae_probe if params.probe.protocol == "mae" else run_fast_probe
    return run(params, attached, shards, curves)
