"""What the playground's page asks of a model, and the answers as JSON can hold them. No answer names a path."""

import base64
import io
import threading
from collections.abc import Callable
from typing import Annotated, Any

import torch
from PIL import Image
from pydantic import Field

from prologue.core.errors import PrologueError
from prologue.core.params import Section
from prologue.core.recipe import Recipe, save_picture
from prologue.data.sources.base import Unusable
from prologue.generator.files import read_photo
from prologue.generator.generator import Generator
from prologue.sampling.images import Pixels

MOST_IMAGES = 16
SEEDS = 2**31

Ids = list[Annotated[int, Field(ge=0)]]


class DrawRequest(Section):
    """Images of a class; `prologue` is held where given, and drawn where not."""

    label: Annotated[int, Field(ge=0)]
    seed: Annotated[int, Field(ge=0, lt=SEEDS)]
    images: Annotated[int, Field(ge=1, le=MOST_IMAGES)]
    guidance: Annotated[float, Field(ge=0, le=100)]
    prologue_guidance: Annotated[float, Field(ge=0, le=100)]
    temperature: Annotated[float, Field(gt=0, le=10)]
    prologue_temperature: Annotated[float, Field(gt=0, le=10)]
    prologue: Ids | None = None


class Answers:
    """Answers of one model; one request at a time uses it, since each takes all cores."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.busy = threading.Lock()

    def model(self) -> dict[str, Any]:
        """What the page has to know of the model: its classes, its prologue, its own settings."""
        prologue = self.generator.tokenizer.config.prologue
        cfg = self.generator.cfg
        return {
            "name": self.generator.name,
            "classes": list(self.generator.classes),
            "size": self.generator.tokenizer.config.image_size,
            "prologue_tokens": prologue.tokens if prologue else 0,
            "prologue_codebook": prologue.codebook if prologue else 0,
            "most_images": MOST_IMAGES,
            "settings": {
                "guidance": cfg.visual.guidance,
                "prologue_guidance": cfg.prologue.guidance,
                "temperature": cfg.visual.temperature,
                "prologue_temperature": cfg.prologue.temperature,
            },
        }

    def draw(self, asked: DrawRequest) -> dict[str, Any]:
        """Images as PNGs with their recipes, and the prologue of each. Raises PrologueError for ids the model lacks."""
        held = self._held(asked)
        if asked.label >= len(self.generator.classes):
            raise PrologueError(f"the model has {len(self.generator.classes)} classes; there is no class {asked.label}")
        run = self.generator.settings(
            {
                "visual.guidance": asked.guidance,
                "prologue.guidance": asked.prologue_guidance,
                "visual.temperature": asked.temperature,
                "prologue.temperature": asked.prologue_temperature,
            }
        )
        with self.busy:
            tokens = self.generator.sample(
                run, [asked.label] * asked.images, [(asked.seed, image) for image in range(asked.images)], held
            )
            images = self.generator.pixels(tokens)
        recipe = self.generator.drawn_recipe(run, seed=asked.seed, **{"class": self.generator.classes[asked.label]})
        prologues = [None] * asked.images if tokens.prologue is None else tokens.prologue.tolist()
        return {
            "images": [
                {"png": _png(image, {**recipe, "image": number, "prologue": ids}), "prologue": ids}
                for number, (image, ids) in enumerate(zip(images, prologues, strict=True))
            ]
        }

    def encode(self, content: bytes) -> dict[str, Any]:
        """An uploaded photo cropped, its reconstruction, its prologue. Raises PrologueError for what is no image."""
        try:
            photo = read_photo(content, self.generator.tokenizer.config.image_size)[None]
        except (OSError, Unusable) as error:
            raise PrologueError(f"the file cannot be used: {error}") from None
        with self.busy:
            tokens = self.generator.encode(photo)
            copy = self.generator.pixels(tokens)[0]
        return {
            "original": _base64(Image.fromarray(photo[0].permute(1, 2, 0).numpy()).save, format="PNG"),
            "reconstruction": _png(copy, self.generator.recipe(decoded_from="a photo")),
            "prologue": None if tokens.prologue is None else tokens.prologue[0].tolist(),
        }

    def _held(self, asked: DrawRequest) -> torch.Tensor | None:
        """The prologue that is held for every image (images, Np)."""
        if asked.prologue is None:
            return None
        config = self.generator.tokenizer.config.prologue
        if config is None:
            raise PrologueError("this model has no prologue to hold")
        if len(asked.prologue) != config.tokens or max(asked.prologue) >= config.codebook:
            raise PrologueError(f"a prologue is {config.tokens} ids below {config.codebook}")
        return torch.tensor(asked.prologue).expand(asked.images, -1)


def _png(image: Pixels, recipe: Recipe) -> str:
    """A PNG as base64, with its recipe."""
    return _base64(lambda buffer: save_picture(Image.fromarray(image), buffer, "png", recipe))


def _base64(save: Callable[..., None], **how: str) -> str:
    """What is saved to a file, as base64."""
    buffer = io.BytesIO()
    save(buffer, **how)
    return base64.b64encode(buffer.getvalue()).decode()
