"""Codebook usage while training: counted over every batch, warned about as soon as it falls."""

import sys

import torch
from accelerate import Accelerator
from torch import Tensor

from prologue.measures.codebooks import codebook_usage, count_codes


class CodebookUsage:
    """Counts how often each code of each codebook is drawn between two points of the training curves."""

    def __init__(self, codebooks: dict[str, int], minimum: float, accelerator: Accelerator) -> None:
        """`codebooks`: number of codes by name; below `minimum`, a share of the codes, a codebook has collapsed."""
        self._minimum, self._accelerator = minimum, accelerator
        self._counts = {
            name: torch.zeros(codes, dtype=torch.long, device=accelerator.device) for name, codes in codebooks.items()
        }
        self.settled = {name: torch.zeros_like(own) for name, own in self._counts.items()}  # of all processes
        self._collapsed: set[str] = set()

    def add(self, ids: dict[str, Tensor]) -> None:
        """Count the ids (any shape) of a batch by codebook."""
        for name, drawn in ids.items():
            self._counts[name] += count_codes(drawn, len(self._counts[name]))

    def drain(self, step: int) -> dict[str, float]:
        """NAME_usage (share of the codes that could have been drawn) and NAME_perplexity since the last call.

        Every process calls it at the same step. Warns when a codebook falls below the minimum.
        """
        values: dict[str, float] = {}
        self.settle()
        for name, counts in self.settled.items():
            usage, perplexity = codebook_usage(counts)
            values |= {f"{name}_usage": usage, f"{name}_perplexity": perplexity}
            counts.zero_()
            self._warn(name, usage, step)
        return values

    def settle(self) -> None:
        """Add what every process has counted to `settled`; all call it at the same step."""
        for name, own in self._counts.items():
            counts = self._accelerator.reduce(own, "sum")
            assert isinstance(counts, Tensor)
            self.settled[name] += counts
            own.zero_()

    def _warn(self, name: str, usage: float, step: int) -> None:
        if usage >= self._minimum:
            self._collapsed.discard(name)
        elif name not in self._collapsed:
            self._collapsed.add(name)
            if self._accelerator.is_main_process:
                print(
                    f"\nwarning: step {step}: only {usage:.1%} of the {name} codes are in use, fewer than "
                    f"stage1.min_usage ({self._minimum:.1%}): the {name} codebook is collapsing",
                    file=sys.stderr,
                )
