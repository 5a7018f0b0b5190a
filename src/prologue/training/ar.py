"""Stage 2: the full-size AR model, trained on the cached ids of the frozen tokenizer (Sec. 3.1, App. E)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from prologue.data.order import spread
from prologue.data.tokens import TokenCache
from prologue.evaluation.likelihood import evaluate_likelihood
from prologue.interop.import_ar import import_ar
from prologue.models.ar import ARConfig, ARModel
from prologue.models.export import parameter_count, save_model
from prologue.models.tokenizer import Tokens
from prologue.params import Params, TransformerParams
from prologue.runtime import seed_everything, start_accelerator
from prologue.training.checkpoint import Checkpoints, TrainingState, fingerprint
from prologue.training.draws import draw_share
from prologue.training.ema import EMA
from prologue.training.loop import train
from prologue.training.optimizers import build_adamw, learning_rate, set_learning_rate
from prologue.training.output import write_curves

BETAS = (0.9, 0.96)


def make_ar(params: Params, tokenizer: Path, tokens: Path, output: Path, curves: Path) -> dict[str, Any]:
    """Train the AR model, or import it, as `ar.source` says; returns the metrics of the stage."""
    if params.ar.source == "published":
        return import_ar(params, tokenizer, tokens, output, curves)
    return train_ar(params, tokens, output, curves)


def train_ar(params: Params, tokens: Path, output: Path, curves: Path) -> dict[str, Any]:
    """Train the AR model on cached tokens and export its raw weights (what sampling uses) to `output`.

    Returns the metrics of the stage: parameters, images per second, loss and prologue gain on validation images.
    """
    accelerator = start_accelerator()
    task = ARTask(params, tokens, accelerator)
    key = fingerprint(
        {name: params.model_dump()[name] for name in ("seed", "precision", "ar")},
        [tokens / "manifest.json", *sorted((tokens / "train").glob("*.npy"))],
    )
    checkpoints = Checkpoints("ar", key)
    measured = train(task, params.ar, params.seed, checkpoints, accelerator)
    everything = np.arange(len(task.val))
    likelihood = {  # before the checkpoints go, so that a kill here costs no training
        "val": evaluate_likelihood(task.model.eval(), task.val, everything),
        "ema_val": evaluate_likelihood(task.ema.model, task.val, everything),
    }
    if accelerator.is_main_process:
        save_model(output, task.model)
        write_curves(checkpoints.curves, curves)
        checkpoints.clear()
    accelerator.wait_for_everyone()
    return {
        "parameters": {"ar": parameter_count(task.model)},
        "steps": params.ar.steps,
        "images_per_second": measured.get("images_per_second"),
        **likelihood,
    }


class ARTask:
    """Next-token prediction over prologue, EOS and visual tokens, with a share of the labels dropped."""

    def __init__(self, params: Params, tokens: Path, accelerator: Accelerator) -> None:
        self.params, self.schedule, self.accelerator = params, params.ar, accelerator
        self.train, self.val = TokenCache(tokens, "train"), TokenCache(tokens, "val")
        seed_everything(params.seed)
        config = ARConfig(
            vocabulary=self.train.vocabulary,
            transformer=TransformerParams(layers=params.ar.layers, dim=params.ar.dim),
            dropout=params.ar.dropout,
            embedding_dropout=params.ar.embedding_dropout,
        )
        self.model = ARModel(config).to(accelerator.device)
        self.ema = EMA(self.model, self.schedule.ema_half_life)
        self.optimizer = build_adamw(self.model, BETAS, self.schedule.weight_decay, self.schedule.gate_lr_scale)
        self.state = TrainingState({"ar": self.model, "ema": self.ema.model}, {"ar": self.optimizer})
        self.ar = accelerator.prepare(self.model)

    def batches(self, start: int) -> Iterator[tuple[Tokens, Tensor]]:
        """Tokens and labels of steps start, start + 1, ..."""
        return self.train.training_batches(
            self.params.seed,
            self.schedule.batch,
            start,
            self.schedule.steps,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )

    def step(self, step: int, batch: tuple[Tokens, Tensor]) -> dict[str, Tensor]:
        """One update; the loss is the mean cross-entropy over every position, EOS included."""
        device, vocabulary = self.accelerator.device, self.model.vocabulary
        tokens, labels = batch
        prologue = tokens.prologue.to(device) if tokens.prologue is not None else None
        visual = tokens.visual.to(device)
        drop = draw_share(self.schedule.label_drop, self.params.seed, step, self.schedule.batch, self.accelerator)
        classes = torch.where(drop, vocabulary.null_class, labels.to(device))
        set_learning_rate(self.optimizer, learning_rate(self.schedule, step))
        self.model.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=self.params.precision == "bf16"):
            sequence = self.model.loss(self.ar(prologue, visual, classes), prologue, visual)
        loss = sequence.per_token(vocabulary).total
        self.accelerator.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.schedule.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.model)
        return {"loss": loss, "gradient_norm": norm}

    def validate(self) -> dict[str, float]:
        """Loss and prologue gain of the raw weights on up to 1,000 validation images."""
        return evaluate_likelihood(self.model.eval(), self.val, spread(len(self.val)))
