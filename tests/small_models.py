"""Untrained networks at toy size that several tests share."""

from pathlib import Path

import torch
from tiny import tiny_params

from prologue.core.params import Params, TransformerParams
from prologue.core.runtime import start_accelerator
from prologue.models.ar import ARConfig, ARModel
from prologue.models.tokenizer import Tokenizer
from prologue.models.vocabulary import Vocabulary
from prologue.training.plan import plan_tokenizer
from prologue.training.tokenizer import TokenizerTask, tokenizer_config


def make_tokenizer(**overrides: object) -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer(tokenizer_config(plan_tokenizer(tiny_params(**overrides))))


def make_task(params: Params, shards: Path) -> TokenizerTask:
    """Stage 1 of params, before its first step."""
    torch.manual_seed(0)
    plan = plan_tokenizer(params)
    return TokenizerTask(plan, shards, Tokenizer(tokenizer_config(plan)), start_accelerator())


def make_ar(tokenizer: Tokenizer) -> ARModel:
    torch.manual_seed(1)
    vocabulary = Vocabulary(
        visual_codebook=32,
        prologue_codebook=tokenizer.prologue_codebook,
        visual_tokens=16,
        prologue_tokens=tokenizer.prologue_tokens,
        classes=2,
    )
    ar = ARModel(ARConfig(vocabulary=vocabulary, transformer=TransformerParams(layers=2, dim=64)))
    for parameter in ar.parameters():  # far from the start, where gates are almost closed
        torch.nn.init.normal_(parameter, std=0.3)
    return ar.eval()


def images(count: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
