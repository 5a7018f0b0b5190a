"""What the trainings of a set of params need of a GPU's memory, and the micro-batch that fits one, without a GPU.

Forward passes are run with fake tensors 'on a GPU', which have shapes and no numbers, and what they keep for the
backward pass is counted, tensor by tensor.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torchvision.models import vgg

from prologue.core.params import Params
from prologue.core.sharing import own_rows
from prologue.core.systems import trains_stage2
from prologue.models.ar import MAX_LOGITS, ARConfig, ARModel, SequenceLoss
from prologue.models.discriminator import Discriminator
from prologue.models.dropout import key_rows
from prologue.models.saved import parameter_count
from prologue.models.tokenizer import Tokenizer
from prologue.models.transformer import Transformer
from prologue.models.vocabulary import Vocabulary
from prologue.training.ar import ar_config
from prologue.training.attach import with_prologue
from prologue.training.joint_ar import joint_ar_loss
from prologue.training.plan import JointARPlan, plan_attach, plan_tokenizer
from prologue.training.tokenizer import tokenizer_config

FEW, MORE = 2, 4  # images that are counted, to tell what grows with them from what does not
LOGITS = 3  # copies of them in fp32: their logarithms, the gradient, and as much as both take in bf16
TRAINED = 16  # bytes a trained parameter: fp32 weight, gradient, two moments of AdamW
EXCHANGED = 4  # one copy more of the gradients where processes exchange them
FP32 = 4
OVERHEAD = 1e9  # bytes: CUDA's context, workspaces of libraries, what the allocator cannot use; an assumption
NETWORKS: dict[str, Callable[[], nn.Module]] = {  # of the perceptual losses, without their weights
    "lite0": lambda: timm.create_model("tf_efficientnet_lite0"),
    "vgg16": lambda: vgg.make_layers(vgg.cfgs["D"]),
    "convnext_small": lambda: timm.create_model("convnext_small"),
}
SEEN_AT = {"convnext_small": 224}  # px, where not at the images' own size
CARDS = (24, 40, 80)  # GB


@dataclass(frozen=True)
class Memory:
    """Bytes that a training stage needs on each GPU.

    Attributes:
        stage: the stage's name in dvc.yaml.
        state: weights, gradients, moments, EMA and what else no batch changes; with other processes their exchange.
        kept: activations kept for the backward pass, of an image, logits aside.
        recomputed: the same with PROLOGUE_RECOMPUTE=1: the inputs of all blocks, and the activations of one.
        logits: those of an image, in fp32; no more of them are held at once than `MAX_LOGITS`.
    """

    stage: str
    state: int
    kept: int
    recomputed: int
    logits: int

    def total(self, images: int, recompute: bool = False) -> int:
        """Bytes with so many images in a micro-batch."""
        kept = images * (self.recomputed if recompute else self.kept)
        return round(self.state + kept + LOGITS * min(images * self.logits, FP32 * MAX_LOGITS) + OVERHEAD)

    def fitting(self, images: int, gigabytes: float, recompute: bool = False) -> int:
        """The largest micro-batch that divides a process's `images` of a step and fits a card; 0 where none does."""
        divisors = [size for size in range(images, 0, -1) if images % size == 0]
        return next((size for size in divisors if self.total(size, recompute) <= gigabytes * 1e9), 0)


def estimate(params: Params, classes: int, gpus: int) -> dict[str, tuple[Memory, int]]:
    """Memory of each training stage of the params on `gpus` GPUs, and the images of a step that each of them has.

    Imported tokenizers are not trained and not counted. Raises PrologueError where a batch cannot be divided evenly
    over the GPUs, as the training does.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"), _as_on_a_gpu(params.precision != "fp32"):
        plan, attach = plan_tokenizer(params), plan_attach(params)
        tokenizer = Tokenizer(tokenizer_config(plan)).train()
        stages = []
        if params.tokenizer.source == "train":
            stages.append(_of_images("tokenizer", tokenizer, tokenizer, plan.joint_ar, params, classes, gpus))
        if attach is not None:
            frozen = with_prologue(tokenizer.requires_grad_(False), attach.prologue)
            assert frozen.prologue_encoder is not None
            trained = nn.ModuleList([frozen.prologue_encoder, frozen.prologue_quantizer])  # type: ignore[list-item]
            stages.append(_of_images("attach", frozen, trained, attach.joint_ar, params, classes, gpus))
        if trains_stage2(params):
            vocabulary = (frozen if attach else tokenizer).vocabulary(classes)
            stages.append(_of_ar(ARModel(ar_config(params.ar, vocabulary)), gpus))
    batches = {"ar": params.ar.batch}
    return {
        stage.stage: (stage, own_rows(batches.get(stage.stage, params.stage1.batch), 0, gpus).stop) for stage in stages
    }


def _of_images(
    stage: str,
    tokenizer: Tokenizer,
    trained: nn.Module,
    joint: JointARPlan | None,
    params: Params,
    classes: int,
    gpus: int,
) -> Memory:
    """A training on images: the tokenizer, the AR model beside it, and the networks that judge reconstructions.

    Image losses go backward before the rest does, one after the other, so that of these the largest counts.
    """
    size, whole = params.data.image_size, stage == "tokenizer"
    trainable: list[nn.Module] = [trained]
    ar: ARModel | None = None
    if joint is not None:
        ar = ARModel(ARConfig(vocabulary=tokenizer.vocabulary(classes), transformer=joint.transformer)).train()
        trainable.append(ar)

    def forward(images: int) -> list[Tensor]:
        pixels = torch.zeros(images, 3, size, size, dtype=torch.uint8)
        output = tokenizer(pixels, reconstruct=whole, routed_tau=joint.routed_tau if joint else None)
        parts = [output.visual.loss] + ([output.reconstruction.float().mean()] if whole else [])
        if ar is not None and joint is not None:
            drop = torch.zeros(images, dtype=torch.bool) if tokenizer.prologue_tokens else None
            labels = torch.zeros(images, dtype=torch.long)
            parts.append(joint_ar_loss(ar.losses, ar.vocabulary, output, joint.weight, labels, drop).total)
        return parts

    fixed, kept, recomputed = _kept_both_ways(forward, [tokenizer, ar] if ar is not None else [tokenizer])
    judged = [0]
    if whole and params.stage1.adversarial:
        discriminator = Discriminator(params.stage1.discriminator)
        trainable.append(discriminator)
        judged.append(2 * _of_network(discriminator, size)[1])  # real and fake images
    state = fixed + _state(trainable, gpus) + FP32 * parameter_count(trained)  # its EMA
    state += FP32 * (0 if trained is tokenizer else parameter_count(tokenizer))
    for name, weight in params.stage1.perceptual if whole else ():
        if weight:
            with unset_fake_temporarily(), torch.device("cpu"):  # fake tensors have no numbers to start one with
                network = NETWORKS[name]().eval().requires_grad_(False)
            state += FP32 * parameter_count(network)
            with torch.device("cpu"):
                judged.append(_of_network(network, SEEN_AT.get(name, size))[1])
    logits = _logits(ar.vocabulary) if ar is not None else 0
    return Memory(stage, state, kept - logits + max(judged), recomputed - logits + max(judged), logits)


def _of_network(network: nn.Module, size: int) -> tuple[int, int]:
    """As `_kept`, of a network that reads images whose gradient is wanted."""
    return _kept(lambda images: [network(torch.zeros(images, 3, size, size, requires_grad=True))])


def _of_ar(ar: ARModel, gpus: int) -> Memory:
    """Stage 2."""
    vocabulary = ar.train().vocabulary

    def forward(images: int) -> list[Tensor]:
        visual, labels = torch.zeros(images, vocabulary.visual_tokens).long(), torch.zeros(images).long()
        prologue = torch.zeros(images, vocabulary.prologue_tokens).long() if vocabulary.prologue_tokens else None
        key_rows(ar, torch.zeros(images, dtype=torch.int32))
        return [SequenceLoss.of(ar.losses(prologue, visual, labels), vocabulary).per_token(vocabulary).total]

    fixed, kept, recomputed = _kept_both_ways(forward, [ar])
    state, logits = fixed + _state([ar], gpus) + FP32 * parameter_count(ar), _logits(vocabulary)
    return Memory("ar", state, kept - logits, recomputed - logits, logits)


def _state(trained: list[nn.Module], gpus: int) -> int:
    count = sum(parameter.numel() for module in trained for parameter in module.parameters())
    return count * (TRAINED + (EXCHANGED if gpus > 1 else 0))


def _logits(vocabulary: Vocabulary) -> int:
    """Bytes of an image's logits in fp32."""
    return FP32 * vocabulary.length * vocabulary.size


def _kept_both_ways(forward: Callable[[int], list[Tensor]], models: list[nn.Module]) -> tuple[int, int, int]:
    """As `_kept`, and third what an image needs where blocks compute their activations again, one after the other."""
    fixed, kept = _kept(forward)
    stacks = [module for model in models for module in model.modules() if isinstance(module, Transformer)]
    left, block = kept, 0
    for stack in stacks:
        stack.recompute, before = True, left
        left = _kept(forward)[1]
        block = max(block, (before - left) // len(stack.blocks))
    for stack in stacks:
        stack.recompute = False
    return fixed, kept, left + block


def _kept(forward: Callable[[int], list[Tensor]]) -> tuple[int, int]:
    """Bytes that a forward pass of so many images keeps for the backward pass: whatever their number, and of each."""
    few, more = (_kept_of(forward, images) for images in (FEW, MORE))
    each = (more - few) // (MORE - FEW)
    return few - FEW * each, each


def _kept_of(forward: Callable[[int], list[Tensor]], images: int) -> int:
    """Bytes that are kept, parameters aside; each storage counts once."""
    storages: dict[int, int] = {}
    alive: list[Tensor] = []  # or another storage would get the number of one that is gone

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter) and not isinstance(tensor._base, nn.Parameter):
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive += forward(images)
    return sum(storages.values())


@contextmanager
def _as_on_a_gpu(bf16: bool) -> Iterator[None]:
    """bf16 products where wanted, and the attention kernel of GPUs; PyTorch chooses both by looking for one."""
    functional, plain = torch.nn.functional, torch.nn.functional.scaled_dot_product_attention

    def flash(q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False) -> Tensor:
        attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)[0]
        return attended

    autocast = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", bf16)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    functional.scaled_dot_product_attention = flash  # type: ignore[assignment]
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = plain
        torch.set_autocast_enabled("cuda", autocast[0])
        torch.set_autocast_dtype("cuda", autocast[1])
