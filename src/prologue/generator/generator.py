"""What images are asked of: a tokenizer, the AR model of its ids, names of classes, settings of sampling."""

import difflib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from prologue.core.errors import PrologueError
from prologue.core.params import GuidedRunParams, Precision
from prologue.core.precision import faster_precision
from prologue.core.recipe import Recipe
from prologue.core.runtime import start_accelerator
from prologue.core.systems import with_setting
from prologue.models.ar import ARModel
from prologue.models.tokenizer import Tokenizer, Tokens, join_tokens
from prologue.models.weights import weights_sha256
from prologue.sampling.generation import Seed, TokenSampler
from prologue.sampling.images import DTYPES, Pixels, choices_of, decode, guidance_of
from prologue.sampling.prologues import HELD
from prologue.sampling.watermark import Watermark, marking

NAMED = 10  # classes in a message
BATCH = 64  # images that are encoded at once


@dataclass(frozen=True)
class Generator:
    """Both models in eval mode and on one device, a name for each class, and the settings its samples were made by.

    `name` is for people: where it came from. `project` is the folder of the run that trained it, where that is at hand,
    `export` that of `prologue export` which it was read from.
    `key` is the file of the watermark's key, which the environment holds otherwise.
    """

    name: str
    tokenizer: Tokenizer
    ar: ARModel
    classes: tuple[str, ...]
    cfg: GuidedRunParams
    precision: Precision = "auto"
    project: Path | None = None
    export: Path | None = None
    watermark_strength: float = 0
    key: Path | None = None
    ships: bool = False  # the small model that is part of the package

    @property
    def device(self) -> torch.device:
        """Where both models are; what is encoded, drawn and decoded may come from anywhere."""
        return self.ar.token_embedding.weight.device

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of matrix products while sampling; `auto` is what this machine is faster in."""
        return DTYPES[faster_precision(start_accelerator()) if self.precision == "auto" else self.precision]

    @cached_property
    def watermark(self) -> Watermark | None:
        """The mark that images are drawn with. Raises PrologueError where it is on and there is no key."""
        return marking(self.watermark_strength, self.tokenizer, self.key)

    @cached_property
    def weights_sha256(self) -> str:
        """Which model it is, whatever folder it lies in."""
        return weights_sha256(self.tokenizer, self.ar)

    def recipe(self, **made: object) -> Recipe:
        """The recipe of a file made by this model, and by what is given."""
        return {"model": self.name, "weights_sha256": self.weights_sha256, **made}

    def drawn_recipe(self, run: GuidedRunParams, **made: object) -> Recipe:
        """The recipe of images drawn by this model at some settings, marked or not, and by what is given."""
        without = None if self.ar.vocabulary.prologue_tokens else {"prologue"}
        settings = run.model_dump(exclude=without) | {"watermark": {"strength": self.watermark_strength}}
        settings["precision"] = next(name for name, dtype in DTYPES.items() if dtype == self.dtype)
        return self.recipe(settings=settings, **made)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and colours of an image."""
        size = self.tokenizer.config.image_size
        return size, size, 3

    def classes_in(self, text: str) -> list[str]:
        """The classes that a text names, divided by commas, which may also be part of a class's own name."""
        parts, names = text.split(","), []
        while parts:
            joined = {count: ",".join(parts[:count]).strip() for count in range(len(parts), 0, -1)}
            count = next((count for count, name in joined.items() if name in self.classes), 1)
            names.append(joined[count])
            parts = parts[count:]
        return names

    def labels_of(self, names: list[str]) -> list[int]:
        """Labels of classes by name. Raises PrologueError for a name that is none, with the nearest."""
        for name in names:
            if name not in self.classes:
                near = difflib.get_close_matches(name, self.classes, cutoff=0.5)
                known = ", ".join(near or self.classes[:NAMED]) + ("" if near else " ...")
                raise PrologueError(
                    f"there is no class {name!r} in {self.name}; {'nearest' if near else 'known'}: {known}"
                )
        return [self.classes.index(name) for name in names]

    def settings(self, changed: dict[str, float]) -> GuidedRunParams:
        """The model's own settings of sampling with some changed, by SEGMENT.KEY; `visual.guidance` is one.

        Raises PrologueError for a value out of range.
        """
        run = self.cfg
        for axis, value in changed.items():
            try:
                run = with_setting(run, axis, value)
            except ValueError as error:
                raise PrologueError(str(error)) from None
        return run

    def sample(
        self, run: GuidedRunParams, labels: list[int], seeds: list[Seed], prologue: Tensor | None = None
    ) -> Tokens:
        """Ids of one image per label; `prologue` (B, Np) is held where given. The stage samples draws the same."""
        labelled = torch.tensor(labels, device=self.device)
        held = None if prologue is None else prologue.to(self.device)
        return self.sampler(run, self.watermark).sample(labelled, seeds, held)

    def sampler(self, run: GuidedRunParams, watermark: Watermark | None) -> TokenSampler:
        """What draws at some settings, with a mark or none; without guidance where both scales are 1."""
        guidance = None if run.prologue.guidance == run.visual.guidance == 1 else guidance_of(run)
        return TokenSampler(self.ar, guidance, choices_of(run), self.dtype, watermark)

    def held(self, run: GuidedRunParams, labels: list[int], seed: int) -> Tensor:
        """A sampled prologue of each label (B, Np), to be held; the stage samples holds those of its first classes.

        Raises PrologueError where the model has no prologue.
        """
        prologue = self.sample(run, labels, [(seed, HELD + row) for row in range(len(labels))]).prologue
        return self._present(prologue)

    def encode(self, images: Tensor) -> Tokens:
        """Ids of images uint8 (B, 3, H, W), any number."""
        return join_tokens([self.tokenizer.encode(part.to(self.device)) for part in images.split(BATCH)])

    def prologue_of(self, images: Tensor) -> Tensor:
        """Prologue ids (B, Np) of images uint8 (B, 3, H, W). Raises PrologueError where the model has no prologue."""
        return self._present(self.encode(images).prologue)

    def _present(self, prologue: Tensor | None) -> Tensor:
        if prologue is None:
            raise PrologueError(f"{self.name} has no prologue to hold: its system is a baseline without one")
        return prologue

    def pixels(self, tokens: Tokens) -> Pixels:
        """Images uint8 (B, H, W, 3) of ids."""
        return decode(self.tokenizer, tokens.visual.to(self.device))
