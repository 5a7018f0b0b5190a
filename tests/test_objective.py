"""What a step of training minimises, by its formulas: losses, draws, which optimizer moves what, and by how much."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from calls import record_calls
from small_models import make_task
from tiny import tiny_params
from torch import Tensor, nn
from torch.nn import functional as F
from training_run import run_stages

from prologue.core.runtime import start_accelerator
from prologue.core.seeds import Stream
from prologue.data.images import ImageShards
from prologue.frozen.perceptual import PerceptualLoss
from prologue.models.quantizers import VisualQuantizer
from prologue.tokens.cache import TokenCache
from prologue.training import ar as ar_training
from prologue.training import attach as attach_training
from prologue.training import image_task
from prologue.training import tokenizer as tokenizer_training
from prologue.training.ar import ARTask
from prologue.training.draws import Draws
from prologue.training.optimizers import apply, build_adamw, gradient_norm

WEIGHTS = {
    "stage1__l1": 2.0,
    "stage1__perceptual__lite0": 0.5,
    "stage1__adversarial": 0.3,
    "tokenizer__commitment": 0.4,
}
OF_DISCRIMINATOR = {"stage1__lecam": 0.7, "stage1__r1": 0.6, "stage1__r1_every": 2}


@pytest.fixture(autouse=True)
def _own_work_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def own_gradients(loss: Tensor, module: nn.Module) -> dict[str, Tensor]:
    names, parameters = zip(*module.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}


def assert_gradients(module: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, parameter in module.named_parameters():
        got = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(got, expected.get(name, torch.zeros_like(got)), rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("step", [0, 1])  # R1 is due every other step
def test_a_step_of_stage_1_has_the_gradients_of_its_losses(shards: Path, step: int) -> None:
    task = make_task(tiny_params(prologue__mode="none", **WEIGHTS, **OF_DISCRIMINATOR), shards)
    assert task.discriminator is not None
    task.lecam.real_mean.fill_(0.2)
    task.lecam.fake_mean.fill_(-0.3)
    model, judge = copy.deepcopy(task.model), copy.deepcopy(task.discriminator)
    images, labels = next(task.batches(0))
    losses = task.gradients(step, (images, labels))

    real = images.float() / 127.5 - 1
    quantizer = model.visual_quantizer
    assert isinstance(quantizer, VisualQuantizer)
    z = F.normalize(quantizer.proj_in(model.encoder(real)[0]), dim=-1)
    codes = F.normalize(quantizer.codebook.weight, dim=-1)
    q = codes[(z @ codes.T).argmax(dim=-1)]
    decoded = q.detach().requires_grad_()
    fake = model.decoder(decoded)
    own = {
        "l1": (fake - real).abs().mean(),
        "perceptual_lite0": PerceptualLoss("lite0")(fake, real).mean(),
        "adversarial": F.softplus(-judge(fake)).mean(),
        "vq": (q - z.detach()).square().mean() + 0.4 * (z - q.detach()).square().mean(),
    }
    of_images = 2.0 * own["l1"] + 0.5 * own["perceptual_lite0"] + 0.3 * own["adversarial"]
    assert_gradients(task.model.decoder, own_gradients(of_images, model.decoder))
    (straight_through,) = torch.autograd.grad(of_images, decoded, retain_graph=True)
    total = own["vq"] + (z * straight_through).sum()
    assert_gradients(task.model.encoder, own_gradients(total, model.encoder))
    assert_gradients(task.model.visual_quantizer, own_gradients(total, quantizer))

    fake = fake.detach()
    of_real, of_fake = judge(real), judge(fake)
    own["discriminator"] = F.softplus(-of_real).mean() + F.softplus(of_fake).mean()
    of_judge = own["discriminator"] + 0.7 * (
        F.relu(of_real + 0.3).square().mean() + F.relu(0.2 - of_fake).square().mean()
    )
    if step == 0:
        seen = real.clone().requires_grad_()
        (slope,) = torch.autograd.grad(judge(seen).sum(), seen, create_graph=True)
        of_judge = of_judge + 0.6 * slope.square().sum(dim=(1, 2, 3)).mean() / 2
    assert_gradients(task.discriminator, own_gradients(of_judge, judge))
    assert losses.keys() == own.keys()
    for name, loss in own.items():
        assert losses[name].item() == pytest.approx(loss.item(), rel=1e-4), name

    task.update(step, {}, torch.zeros(()))
    assert task.lecam.real_mean.item() == pytest.approx(0.999 * 0.2 + 0.001 * of_real.mean().item(), rel=1e-4)
    assert task.lecam.fake_mean.item() == pytest.approx(0.999 * -0.3 + 0.001 * of_fake.mean().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("mode", "label_drop", "shown"), [("joint", 0.1, [2]), ("onestage", 0.0, [0, 1]), ("onestage", 1.0, [2])]
)
def test_the_ar_model_of_stage_1_sees_no_class_unless_it_is_the_only_one(
    mode: str, label_drop: float, shown: list[int], shards: Path
) -> None:
    task = make_task(tiny_params(prologue__mode=mode, ar__label_drop=label_drop), shards)
    assert task.joint_ar is not None
    images, _ = next(task.batches(0))
    task.gradients(0, (images, torch.arange(len(images)) % 2))
    gradient = task.joint_ar.class_embedding.weight.grad
    assert gradient is not None
    moved = gradient.abs().sum(dim=1)
    assert moved.nonzero().flatten().tolist() == shown  # the third is the null class


@pytest.mark.parametrize(("share", "dropped"), [(0.0, None), (1.0, True)])
def test_visual_inputs_are_dropped_at_their_share(share: float, dropped: bool | None, shards: Path) -> None:
    task = make_task(tiny_params(prologue__visual_dropout=share), shards)
    drop = task._with_draws(0, *next(task.batches(0))).drop_visual
    assert dropped == (None if drop is None else bool(drop.all()))


def test_draws_have_their_shares_and_are_cut_over_processes() -> None:
    def marks(step: int, stream: Stream, probability: float, rank: int = 0, ranks: int = 1) -> Tensor:
        where = SimpleNamespace(process_index=rank, num_processes=ranks, device=torch.device("cpu"))
        return Draws(0, step, 4096, where).marks(stream, probability)

    whole = marks(3, Stream.LABEL_DROP, 0.1)
    assert whole.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert not marks(3, Stream.LABEL_DROP, 0.0).any()
    assert marks(3, Stream.LABEL_DROP, 1.0).all()
    assert torch.equal(whole, marks(3, Stream.LABEL_DROP, 0.1))
    assert torch.equal(whole, torch.cat([marks(3, Stream.LABEL_DROP, 0.1, rank, 4) for rank in range(4)]))
    for other in (marks(4, Stream.LABEL_DROP, 0.1), marks(3, Stream.VISUAL_DROPOUT, 0.1)):
        assert (whole & other).float().mean().item() == pytest.approx(0.01, abs=0.01)  # of independent draws


class Parts(nn.Module):
    """A matrix, a bias, a gate and the scale of a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.block = nn.ParameterDict({"gate": torch.full((2,), 0.5)})
        self.norm = nn.ParameterDict({"scale": torch.full((2,), 1.5)})


def test_adamw_decays_matrices_alone_and_moves_gates_and_norms_faster() -> None:
    torch.manual_seed(0)
    module, decay, betas, rates = Parts(), 0.3, (0.8, 0.95), (0.1, 0.02, 0.05)
    expected = {name: parameter.detach().double().numpy().copy() for name, parameter in module.named_parameters()}
    optimizer = build_adamw(module, betas, decay, gate_lr_scale=4.0)
    first, second = ({name: np.zeros_like(value) for name, value in expected.items()} for _ in range(2))
    for count, rate in enumerate(rates, start=1):
        for name, parameter in module.named_parameters():
            gradient = torch.randn_like(parameter)
            parameter.grad, g = gradient, gradient.double().numpy()
            own = rate * (4.0 if name in ("block.gate", "norm.scale") else 1.0)
            first[name] = betas[0] * first[name] + (1 - betas[0]) * g
            second[name] = betas[1] * second[name] + (1 - betas[1]) * g**2
            expected[name] *= 1 - own * (decay if name == "linear.weight" else 0.0)
            moments = first[name] / (1 - betas[0] ** count), second[name] / (1 - betas[1] ** count)
            expected[name] -= own * moments[0] / (np.sqrt(moments[1]) + 1e-8)
        apply(optimizer, rate, torch.zeros(()))
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(parameter.detach(), expected[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_every_optimizer_has_the_papers_betas_and_weight_decay(shards: Path) -> None:
    task = make_task(tiny_params(stage1__ar_weight_decay=0.03), shards)
    for name, betas, decay in (
        ("tokenizer", (0.0, 0.99), 0.0),
        ("discriminator", (0.0, 0.99), 1e-4),
        ("joint_ar", (0.9, 0.99), 0.03),
    ):
        groups = task.state.optimizers[name].param_groups
        assert {group["betas"] for group in groups} == {betas}
        assert {group["weight_decay"] for group in groups} == {0.0, decay}


@pytest.mark.parametrize(("share", "shown"), [(0.0, [0, 1]), (1.0, [2])])
def test_stage_2_drops_labels_at_their_share(share: float, shown: list[int], shards: Path) -> None:
    run_stages(tiny_params(), shards, ["tokenizer", "tokens"])
    task = ARTask(tiny_params(ar__label_drop=share), Path("tokens"), start_accelerator())
    tokens, labels = next(task.batches(0))
    task.gradients(0, (tokens, torch.arange(len(labels)) % 2))
    gradient = task.model.class_embedding.weight.grad
    assert gradient is not None
    assert gradient.abs().sum(dim=1).nonzero().flatten().tolist() == shown  # the third is the null class


def test_stage_2_trains_as_its_params_say(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout, every view, the rates of the schedule; and it is judged on validation images."""
    params = tiny_params(
        tokens__crops="flip", ar__dropout=0.2, ar__embedding_dropout=0.3, ar__warmup=2, ar__flat=0, ar__lr_end=1e-5
    )
    run_stages(params, shards, ["tokenizer", "tokens"])
    task = ARTask(params, Path("tokens"), start_accelerator())
    assert (task.model.config.dropout, task.model.config.embedding_dropout) == (0.2, 0.3)
    assert len(task.val) == len(ImageShards(shards, "val"))
    reads, applied = record_calls(monkeypatch, TokenCache, "read"), record_calls(monkeypatch, ar_training, "apply")
    for step, batch in enumerate(task.batches(0)):
        task.gradients(step, batch)
        task.update(step, {"ar": torch.ones(())}, torch.zeros(()))
    assert {int(view) for _, _, views in reads for view in views} == {0, 1}
    rates = [rate for _, rate, _ in applied]
    assert rates == [task.schedule.rate(step) for step in range(task.schedule.steps)]
    assert rates[0] < rates[1] > rates[-1] > 0


TRAININGS = {"tokenizer": tokenizer_training, "attach": attach_training, "ar": ar_training}


@pytest.mark.parametrize(("stage", "mode"), [("tokenizer", "joint"), ("attach", "post"), ("ar", "joint")])
def test_the_seed_reaches_weights_order_and_draws(
    stage: str, mode: str, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else runs of several seeds would not be independent."""
    own = {"prologue__mode": mode, "ar__label_drop": 0.5, "prologue__visual_dropout": 0.5}
    run_stages(tiny_params(**own), shards, ["tokenizer", "tokens"] if stage == "ar" else ["tokenizer"])
    tasks = list[Any]()

    def capture(_: str, task: Any, *rest: Any) -> dict[str, Any]:
        tasks.append(task)
        return {}

    monkeypatch.setattr(TRAININGS[stage], "run_training", capture)
    for seed in (0, 1):
        run_stages(tiny_params(seed=seed, **own), shards, [stage])
    one, other = tasks
    weights = [torch.cat([own.flatten() for own in task.model.parameters() if own.requires_grad]) for task in tasks]
    assert not torch.equal(*weights)
    (batch, _), (of_other, _) = (next(task.batches(0)) for task in tasks)
    images = [getattr(own, "visual", own) for own in (batch, of_other)]
    assert not torch.equal(*images)
    for name, module in one.state.modules.items():
        other.state.modules[name].load_state_dict(module.state_dict())
    losses = [task.gradients(0, next(one.batches(0))) for task in tasks]
    assert losses[0] != losses[1]


def test_stage_1_moves_by_its_schedule_and_validates_the_ema(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(tiny_params(stage1__warmup=2, stage1__flat=1, stage1__lr_end=1e-5), shards)
    applied = record_calls(monkeypatch, image_task, "apply")
    validated = record_calls(monkeypatch, image_task, "validate_tokenizer")
    for step in range(task.schedule.steps):
        task.update(step, {}, torch.zeros(()))
    rates, each = [rate for _, rate, _ in applied], len(task.state.optimizers)
    assert rates == [task.schedule.rate(step) for step in range(task.schedule.steps) for _ in range(each)]
    assert rates[0] < max(rates) > rates[-1] > 0
    task.validate()
    assert [model for model, *_ in validated] == [task.ema.model]


def test_stage_2_clips_its_gradient_and_has_the_papers_betas(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = tiny_params(ar__clip=0.25, ar__weight_decay=0.03)
    run_stages(params, shards, ["tokenizer", "tokens"])
    task = ARTask(params, Path("tokens"), start_accelerator())
    (groups,) = (optimizer.param_groups for optimizer in task.state.optimizers.values())
    assert {group["betas"] for group in groups} == {(0.9, 0.96)}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.03}
    task.gradients(0, next(task.batches(0)))

    def gradients() -> dict[str, Tensor]:
        return {
            name: parameter.grad.clone()
            for name, parameter in task.model.named_parameters()
            if parameter.grad is not None
        }

    before, applied = gradients(), []
    norm = gradient_norm(task.optimizer)
    assert norm > 0.25
    monkeypatch.setattr(ar_training, "apply", lambda *_: applied.append(gradients()))
    task.update(0, {"ar": norm}, torch.zeros(()))
    torch.testing.assert_close(
        applied, [{name: own * 0.25 / norm for name, own in before.items()}], rtol=1e-4, atol=1e-8
    )
