"""Stage 2: the full-size AR model, trained on the cached ids of the frozen tokenizer (Sec. 3.1, App. E)."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL.Image import Image
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from prologue.core.params import ARParams, Params, TransformerParams
from prologue.core.runtime import compiles_by_itself, seed_everything, start_accelerator
from prologue.core.seeds import Stream
from prologue.core.work import origin_of
from prologue.data.order import spread
from prologue.models.ar import ARConfig, ARModel, SequenceLoss, TokenLosses
from prologue.models.dropout import key_rows
from prologue.models.saved import parameter_count, save_model
from prologue.models.tokenizer import Tokens
from prologue.models.vocabulary import Vocabulary
from prologue.tokens.cache import TokenCache
from prologue.tokens.likelihood import evaluate_likelihood
from prologue.training.checkpoint import TrainingState
from prologue.training.draws import Draws
from prologue.training.ema import EMA
from prologue.training.optimizers import apply, build_adamw
from prologue.training.output import run_training
from prologue.training.plan import plan_ar
from prologue.training.prepare import micro_batches, prepare
from prologue.training.schedule import Schedule

BETAS = (0.9, 0.96)


def train_ar(
    params: Params, tokens: Path, output: Path, curves: Path, draw: Callable[[ARModel], Image] | None
) -> dict[str, Any]:
    """Train the AR model on cached tokens and export its raw weights (what sampling uses) to `output`.

    `draw` makes the picture of a validation. Returns the metrics of the stage: parameters, speed, memory, and the last
    validation.
    """
    accelerator = start_accelerator()
    task = ARTask(params, tokens, accelerator)
    origin = origin_of(plan_ar(params), [tokens / "manifest.json", *sorted((tokens / "train").glob("*.npy"))], __file__)
    save = partial(save_model, output, task.model)
    picture = partial(draw, task.model) if draw else None
    metrics = run_training("ar", task, params.ar, params.seed, origin, accelerator, curves, save, picture)
    own = {"parameters": {"ar": parameter_count(task.model)}, "precision": params.precision}
    return own | ({"compiled": True} if task.compiled else {}) | metrics


def ar_config(params: ARParams, vocabulary: Vocabulary) -> ARConfig:
    """What Stage 2 builds."""
    return ARConfig(
        vocabulary=vocabulary,
        transformer=TransformerParams(layers=params.layers, dim=params.dim),
        dropout=params.dropout,
        embedding_dropout=params.embedding_dropout,
    )


class ARTask:
    """Next-token prediction over prologue, EOS and visual tokens, with a share of the labels dropped."""

    def __init__(self, params: Params, tokens: Path, accelerator: Accelerator) -> None:
        self.seed, self.precision, self.params, self.accelerator = params.seed, params.precision, params.ar, accelerator
        self.train, self.val = TokenCache(tokens, "train"), TokenCache(tokens, "val")
        self.schedule = Schedule.of(params.ar, len(self.train))
        seed_everything(params.seed)
        self.model = ARModel(ar_config(params.ar, self.train.vocabulary)).to(accelerator.device)
        self.ema = EMA(self.model, self.params.ema_half_life)
        self.optimizer = build_adamw(self.model, BETAS, self.params.weight_decay, self.params.gate_lr_scale)
        self.state = TrainingState({"ar": self.model, "ema": self.ema.model}, {"ar": self.optimizer})
        self.compiled = compiles_by_itself(accelerator.device, self.schedule.steps)
        self.ar = prepare(TokenLosses(self.model), accelerator, self.compiled)
        self.spent: dict[str, float] = {}

    def batches(self, start: int) -> Iterator[tuple[Tokens, Tensor]]:
        """Tokens and labels of steps start, start + 1, ..."""
        return self.train.training_batches(
            self.seed,
            self.params.batch,
            start,
            self.schedule.steps,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )

    def gradients(self, step: int, batch: tuple[Tokens, Tensor]) -> dict[str, Tensor]:
        """Gradients of the mean cross-entropy over every position, EOS included."""
        device = self.accelerator.device
        prologue, visual = (None if ids is None else ids.to(device) for ids in batch[0])
        assert visual is not None
        draws = Draws(self.seed, step, self.params.batch, self.accelerator)
        unlabelled, keys = draws.marks(Stream.LABEL_DROP, self.params.label_drop), draws.dropout_keys()
        classes = torch.where(unlabelled, self.model.vocabulary.null_class, batch[1].to(device))
        self.model.train()
        mean = torch.zeros((), device=device)
        for rows in micro_batches(len(visual), [self.ar], self.accelerator):
            key_rows(self.model, keys[rows])
            own = None if prologue is None else prologue[rows]
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                losses = self.ar(own, visual[rows], classes[rows])
            sequence = SequenceLoss.of(losses, self.model.vocabulary).per_token(self.model.vocabulary)
            loss = sequence.total * len(visual[rows]) / len(visual)
            self.accelerator.backward(loss)
            mean += loss.detach()
        return {"loss": mean}

    def update(self, step: int, norms: dict[str, Tensor], broken: Tensor) -> None:
        """Clip the gradient, move the weights, and the EMA after them."""
        clip_grads_with_norm_(self.model.parameters(), self.params.clip, norms["ar"])
        apply(self.optimizer, self.schedule.rate(step), broken)
        self.ema.update(self.model)

    def settle(self) -> None:
        """Nothing is counted."""

    def measure(self, step: int) -> dict[str, float]:
        """Nothing beside the losses."""
        return {}

    def validate(self) -> dict[str, float]:
        """Loss and prologue gain of the raw weights on up to 1,000 validation images."""
        return evaluate_likelihood(self.model.eval(), self.val, spread(len(self.val)), self.accelerator)
