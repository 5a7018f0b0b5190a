"""Both training stages in one process: every system, where gradients go, and what is wrong stops by name."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import TorchDynamoPlugin
from calls import record_calls
from launches import assert_same, assert_same_curves
from safetensors.torch import load_file
from small_models import make_task
from tiny import tiny_params
from training_run import run_stages

from prologue.core.errors import PrologueError
from prologue.core.params_file import ParamsError
from prologue.core.runtime import start_accelerator
from prologue.data.images import ImageShards
from prologue.data.transforms import crop_views
from prologue.evaluation.attention import evaluate_attention
from prologue.models.dropout import RowDropout, key_rows
from prologue.models.saved import load_ar, load_tokenizer
from prologue.models.tokenizer import Tokenizer
from prologue.models.transformer import Block
from prologue.pipeline.ar import make_ar
from prologue.report.live import write_page
from prologue.sampling import generate
from prologue.tokens import encoding
from prologue.tokens.cache import TokenCache
from prologue.tokens.encoding import write_tokens
from prologue.training import loop
from prologue.training import tokenizer as tokenizer_training
from prologue.training.attach import AttachTask, with_prologue
from prologue.training.ema import EMA
from prologue.training.plan import plan_attach, plan_tokenizer
from prologue.training.schedule import Schedule
from prologue.training.stop import Stopped, StopRequest
from prologue.training.tokenizer import TokenizerTask, tokenizer_config


@pytest.fixture(autouse=True)
def _own_work_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def last(curve: str) -> float:
    return float(Path(curve).read_text().splitlines()[-1].split("\t")[-1])


def test_a_loss_that_is_not_finite_stops_with_its_name_and_step(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_training, "generator_loss", lambda logits: logits.mean() * float("nan"))
    message = r"step 1: adversarial, gradient_norm_tokenizer not finite; first in the loss itself"
    with pytest.raises(PrologueError, match=message):
        run_stages(tiny_params(), shards, ["tokenizer"])
    assert not Path("tokenizer").exists()


def test_numbers_that_are_finite_when_computed_again_are_told(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in all processes but the one whose images made them."""
    start, calls = TokenizerTask.gradients, []

    def broken(self: TokenizerTask, step: int, batch: Any) -> dict[str, torch.Tensor]:
        calls.append(step)
        losses = start(self, step, batch)
        if len(calls) != 2:
            return losses
        for parameter in self.model.parameters():  # which all processes have from the one
            parameter.grad = None if parameter.grad is None else parameter.grad / 0
        return losses | {"l1": losses["l1"] / 0}

    monkeypatch.setattr(TokenizerTask, "gradients", broken)
    with pytest.raises(PrologueError, match=r"step 2: l1, .* not finite; all is finite in what this process"):
        run_stages(tiny_params(), shards, ["tokenizer"])
    assert calls == [0, 1, 1]


def test_the_module_where_numbers_stop_being_finite_is_named(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = TokenizerTask.gradients

    def broken(self: TokenizerTask, step: int, batch: Any) -> object:
        if step == 3:
            self.model.decoder.stack.transformer.blocks[0].feed_forward.fc1.weight.data[0, 0] = float("inf")
        return start(self, step, batch)

    monkeypatch.setattr(TokenizerTask, "gradients", broken)
    message = r"step 4: l1, .* first in the output of tokenizer\.decoder\.\S+\.blocks\.0\.feed_forward\.fc1\."
    with pytest.raises(PrologueError, match=message):
        run_stages(tiny_params(), shards, ["tokenizer"])
    (kept,) = Path(".work/tokenizer").glob("*/step_*")
    assert kept.name == "step_00000002"


def test_a_gradient_that_is_not_finite_is_named(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = TokenizerTask.__init__

    def broken(self: TokenizerTask, *arguments: Any) -> None:
        start(self, *arguments)
        self.model.encoder.stack.input_layer.bias.register_hook(lambda gradient: gradient / 0)

    monkeypatch.setattr(TokenizerTask, "__init__", broken)
    message = r"step 1: gradient_norm_tokenizer not finite; .* of tokenizer\.encoder\.stack\.input_layer\.bias"
    with pytest.raises(PrologueError, match=message):
        run_stages(tiny_params(), shards, ["tokenizer"])


def test_a_collapsing_codebook_is_warned_about_while_it_happens(
    shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = tiny_params(stage1__min_usage=1.0, stage1__steps=4)
    run_stages(params, shards, ["tokenizer"])
    warnings = capsys.readouterr().err
    assert "warning: step 1: only " in warnings
    assert "the visual codebook is collapsing" in warnings
    assert warnings.count("the visual codebook is collapsing") == 1  # said once, not at every point of the curve
    assert 0 < last("curves/tokenizer/train/visual_usage.tsv") < 1
    assert last("curves/tokenizer/val/prologue_perplexity.tsv") >= 1


def test_bf16_trains_both_stages_and_keeps_fp32_weights(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for precision in ("fp32", "bf16"):
        with monkeypatch.context() as patch:
            patch.setenv("PROLOGUE_WORK", f"{precision}_work")
            stages = ["tokenizer", "tokens", "ar"]
            run_stages(tiny_params(precision=precision), shards, stages, Path(precision))
    for name, curve in (("tokenizer", "l1"), ("ar", "loss")):
        assert all(tensor.dtype == torch.float32 for tensor in load_file(f"bf16/{name}/model.safetensors").values())
        one, two = (last(f"{precision}/curves/{name}/train/{curve}.tsv") for precision in ("fp32", "bf16"))
        assert one != two == pytest.approx(one, rel=0.05)


@pytest.mark.parametrize("mode", ["joint", "post"])
def test_a_start_from_data_has_all_kinds_of_codes_in_use(mode: str, shards: Path) -> None:
    used = {}
    for start in ("random", "data"):
        overrides = {"prologue__start": start, "prologue__mode": mode, "prologue__codebook": 24}
        params = tiny_params(**overrides)
        plan = plan_tokenizer(params) if mode == "joint" else plan_attach(params)
        assert plan is not None
        torch.manual_seed(0)
        tokenizer = Tokenizer(tokenizer_config(plan_tokenizer(params)))
        if mode == "post":
            with_prologue(tokenizer, plan.prologue)
        task = (TokenizerTask if mode == "joint" else AttachTask)(plan, shards, tokenizer, start_accelerator())
        images = torch.cat([images for _, (images, _) in zip(range(6), task.batches(0), strict=False)])
        prologue = tokenizer.encode(images).prologue
        assert prologue is not None
        used[start] = len(prologue.unique())
    assert used["random"] < 16 < 20 < used["data"]


def test_a_stop_between_two_points_of_the_curves_changes_none(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params, stages = tiny_params(stage1__log_every=3, ar__log_every=3), ["tokenizer", "tokens", "ar"]
    run_stages(params, shards, stages, Path("whole"))
    monkeypatch.setenv("PROLOGUE_WORK", "stopped_work")
    for done in (["tokenizer"], ["ar"]):
        with monkeypatch.context() as patch:
            asked = StopRequest()
            asked.made = True
            patch.setattr(loop, "stop_requests", lambda request=asked: nullcontext(request))
            with pytest.raises(Stopped, match="stopped at step 1 of 6"):
                run_stages(params, shards, done, Path("stopped"))
        run_stages(params, shards, done if done == ["ar"] else ["tokenizer", "tokens"], Path("stopped"))
    for stage in ("tokenizer", "ar"):
        assert_same(Path("whole") / stage, Path("stopped") / stage)
        assert_same_curves(Path("whole/curves") / stage, Path("stopped/curves") / stage)


def test_a_start_from_fewer_images_than_codes_is_explained(shards: Path) -> None:
    with pytest.raises(PrologueError, match=r"codebook = 64 codes from another training image, and there are 40"):
        run_stages(tiny_params(prologue__start="data", prologue__codebook=64), shards, ["tokenizer"])


def test_post_leaves_every_visual_weight_and_image_as_it_was(shards: Path) -> None:
    params = tiny_params(prologue__mode="post")
    run_stages(params, shards, ["tokenizer", "attach"])
    before, after = (load_file(Path(name) / "model.safetensors") for name in ("tokenizer", "attached"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(name.startswith("prologue_encoder.") for name in after)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    one, two = load_tokenizer(Path("tokenizer")), load_tokenizer(Path("attached"))
    assert torch.equal(one.encode(images).visual, two.encode(images).visual)
    assert two.encode(images).prologue.shape == (3, params.prologue.tokens)


def test_onestage_trains_the_full_size_model_in_stage_1_and_hands_it_on(shards: Path) -> None:
    params = tiny_params(prologue__mode="onestage", ar__layers=2)
    run_stages(params, shards, ["tokenizer"])
    write_tokens(params, Path("tokenizer"), shards, Path("tokens"))
    assert not Path("tokens/train").exists()  # there is no second stage to train on them
    metrics = make_ar(params, Path("tokenizer"), Path("tokens"), Path("ar"), Path("curves_ar"))
    assert metrics["trained_in_stage1"]
    ar = load_ar(Path("ar"))
    assert ar.config.transformer.layers == 2
    assert_same(Path("tokenizer/ar"), Path("ar"))


@pytest.mark.parametrize("layout", ["1d", "2d"])
def test_routing_sends_the_ar_gradient_into_the_visual_tokens(layout: str, shards: Path) -> None:
    """With every other loss off, the encoder of the routed baseline moves, by lambda times its gradient."""
    off = {"stage1__adversarial": 0, "tokenizer__commitment": 0, "tokenizer__layout": layout}
    gradients = {}
    for mode, weight in (("routed", 1.0), ("routed", 0.25), ("none", 1.0)):
        params = tiny_params(prologue__mode=mode, prologue__ar_weight=weight, **off)
        alone = params.model_copy(update={"stage1": params.stage1.model_copy(update={"l1": 0.0})})  # which is refused
        task = make_task(alone, shards)
        task.gradients(0, next(task.batches(0)))
        gradients[mode, weight] = task.model.encoder.stack.input_layer.weight.grad
    assert gradients["none", 1.0] is None or not gradients["none", 1.0].any()
    assert gradients["routed", 1.0].any()
    torch.testing.assert_close(gradients["routed", 0.25], 0.25 * gradients["routed", 1.0])


@pytest.mark.parametrize("mode", ["joint", "none"])
def test_a_1d_tokenizer_has_any_number_of_tokens(mode: str, shards: Path, tmp_path: Path) -> None:
    """5 for 16 patches: the image comes back whole, and the AR model, its samples and its maps have 5 as well."""
    params = tiny_params(tokenizer__layout="1d", tokenizer__tokens=5, prologue__mode=mode)
    run_stages(params, shards, ["tokenizer", "tokens", "ar"])
    tokenizer, ar = load_tokenizer(Path("tokenizer")), load_ar(Path("ar"))
    drawn = generate(ar, torch.tensor([0, 1]))
    assert drawn.visual.shape == (2, 5)
    assert tokenizer.decode(drawn.visual).shape == (2, 3, 16, 16)
    metrics = evaluate_attention(Path("ar"), Path("tokenizer"), Path("tokens"), shards, tmp_path / "figures")
    assert 0 < metrics["attention_to_previous"]["mean"] < 1
    with pytest.raises(ParamsError, match=r"tokenizer\.tokens: layout 2d has one token per patch"):
        tiny_params(tokenizer__tokens=5)


def test_training_lowers_the_losses_of_both_stages(shards: Path) -> None:
    longer = {"stage1__steps": 40, "stage1__flat": 30, "ar__steps": 60, "ar__label_drop": 0.0, "ar__validation_grid": 4}
    run_stages(tiny_params(**longer), shards, ["tokenizer", "tokens", "ar"])
    for curve in ("tokenizer/train/l1.tsv", "tokenizer/train/ar_loss.tsv", "ar/train/loss.tsv"):
        values = [float(line.split("\t")[-1]) for line in Path("curves", curve).read_text().splitlines()[1:]]
        assert sum(values[-5:]) < 0.9 * sum(values[:5]), curve
    page = write_page(seconds=10).read_text()
    assert page.count("<svg ") > 10
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/", "")  # shows offline
    for stage, step in (("tokenizer", 40), ("ar", 60)):
        assert list(Path(".work", stage).glob(f"*/curves/plots/images/step_{step:08d}.png"))  # what validation drew


def test_the_token_cache_holds_what_the_tokenizer_encodes(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = tiny_params(tokens__crops="ten", tokens__batch=25)
    encoded = record_calls(monkeypatch, Tokenizer, "encode")
    run_stages(params, shards, ["tokenizer"])
    encoded.clear()
    run_stages(params, shards, ["tokens"])
    assert max(len(views) for _, views in encoded) == 20, (
        "two images in ten views: the third would be above tokens.batch"
    )
    cache = TokenCache(Path("tokens"), "train")
    assert (len(cache), cache.views) == (40, 10)
    images = ImageShards(shards, "train")
    tokenizer = load_tokenizer(Path("tokenizer"))
    for index, view in ((0, 0), (17, 4), (39, 9)):
        pixels = torch.from_numpy(crop_views(images.image(index), 16, "ten")[view]).permute(2, 0, 1)[None]
        expected, cached = tokenizer.encode(pixels), cache.read(np.array([index]), np.array([view]))
        assert torch.equal(expected.visual, cached.visual)
        assert expected.prologue is not None
        assert cached.prologue is not None
        assert torch.equal(expected.prologue, cached.prologue)
        assert cache.labels[index] == images.labels[index]


def test_a_killed_token_cache_goes_on_with_the_missing_shards(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = tiny_params(tokens__crops="flip")
    run_stages(params, shards, ["tokenizer", "tokens"])
    whole = {path.name: path.read_bytes() for path in Path("tokens").rglob("*.npy")}
    with monkeypatch.context() as patch:
        record_calls(patch, encoding, "_write_shard", dies_after=1)
        with pytest.raises(KeyboardInterrupt):
            write_tokens(params, Path("tokenizer"), shards, Path("again"))
    written = record_calls(monkeypatch, encoding, "_write_shard")
    write_tokens(params, Path("tokenizer"), shards, Path("again"))
    assert len(written) == 3  # of 3 training shards and 1 of validation
    assert {path.name: path.read_bytes() for path in Path("again").rglob("*.npy")} == whole
    written.clear()
    write_tokens(tiny_params(tokens__crops="ten"), Path("tokenizer"), shards, Path("again"))
    assert len(written) == 4  # other crops: nothing of the old is used


def test_the_schedule_warms_up_stays_and_falls() -> None:
    schedule = Schedule.of(tiny_params(stage1__steps=10, stage1__warmup=2, stage1__flat=3).stage1, images=40)
    rates = [schedule.rate(step) for step in range(10)]
    assert rates[0] == schedule.lr / 2
    assert rates[1:6] == [schedule.lr] * 5
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(schedule.lr_end)


def test_durations_count_in_steps_or_in_epochs() -> None:
    params = tiny_params(stage1__steps="1.5epochs", stage1__warmup="0.2epochs", stage1__flat=3, stage1__batch=8)
    schedule = Schedule.of(params.stage1, images=40)
    assert (schedule.steps, schedule.warmup, schedule.flat) == (8, 1, 3)


def test_micro_batches_recomputed_activations_and_compiled_blocks_give_the_same_gradients(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch norm sees the micro-batch, so the discriminator is left out."""
    compiling = TorchDynamoPlugin(backend="EAGER", use_regional_compilation=True)
    gradients, blocks = [], list[int]()
    of_more = {"PROLOGUE_MICRO_BATCH": "64"}  # as a stage with more samples has it
    for environment in ({}, {"PROLOGUE_MICRO_BATCH": "2"}, {"PROLOGUE_RECOMPUTE": "1"}, of_more, {"COMPILED": "1"}):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            if "COMPILED" in environment:
                patch.setitem(AcceleratorState._shared_state, "dynamo_plugin", compiling)
            task = make_task(tiny_params(stage1__adversarial=0), shards)
            forwards = record_calls(patch, Block, "forward")
            losses = task.gradients(0, next(task.batches(0)))
            blocks.append(len(forwards))
            parameters = [*task.model.named_parameters(), *task.joint_ar.named_parameters()]
            gradients.append(losses | {name: parameter.grad for name, parameter in parameters})
    whole, micro, recomputed, all_at_once, _ = blocks
    assert micro == recomputed == 2 * whole
    assert all_at_once == whole
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-4, atol=1e-6)
    monkeypatch.setenv("PROLOGUE_MICRO_BATCH", "3")
    with pytest.raises(PrologueError, match=r"PROLOGUE_MICRO_BATCH=3 does not divide the 4 samples"):
        task.gradients(0, next(task.batches(0)))
    monkeypatch.setenv("PROLOGUE_RECOMPUTE", "yes")
    with pytest.raises(PrologueError, match="PROLOGUE_RECOMPUTE=yes: give one of on, 1, off, 0"):
        make_task(tiny_params(), shards)


def test_dropout_is_of_the_sample_and_right_on_average() -> None:
    layers = torch.nn.ModuleList(RowDropout(0.1) for _ in range(2)).train()
    keys = torch.arange(64, dtype=torch.int32)
    x = torch.ones(64, 73, 129)
    key_rows(layers, keys)
    one, two = (layer(x) for layer in layers)
    assert one.unique().tolist() == pytest.approx([0, 1 / 0.9])
    assert one.mean().item() == pytest.approx(1, abs=2e-3)
    assert not torch.equal(one, two)
    key_rows(layers, keys[5:9])
    assert torch.equal(layers[0](x[5:9]), one[5:9])
    assert torch.equal(layers.eval()[0](x), x)
    centred = (one - 1).flatten(1)
    assert torch.corrcoef(centred).fill_diagonal_(0).abs().max() < 0.06  # rows are independent: 6 standard deviations


def test_the_ema_forgets_half_in_a_half_life() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    ema = EMA(model, half_life=7)
    torch.nn.init.ones_(model.weight)
    for _ in range(7):
        ema.update(model)
    assert ema.model.weight.item() == pytest.approx(0.5, abs=1e-5)
