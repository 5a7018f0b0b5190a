"""The authors' published checkpoints, loaded into this project's own classes.

A released folder holds tokenizer/model*.safetensors (encoder with quantizers, decoder, each raw and EMA) and
ar/model*.safetensors. It stores no sizes: they follow from the tensors' shapes. 'semantic' is its word for prologue.
"""

import math
import re
from pathlib import Path
from typing import Literal

from torch import Tensor

from prologue.core.conventions import HEAD_DIM
from prologue.core.errors import PrologueError
from prologue.core.params import TokenizerSize, TransformerParams
from prologue.interop.published_blocks import norm, transformer
from prologue.interop.tensors import Sources, check_fit, convert, linear, plain, read_tensors
from prologue.models.ar import ARConfig, ARModel
from prologue.models.config import PrologueConfig, TokenizerConfig
from prologue.models.tokenizer import Tokenizer

Weights = Literal["raw", "ema"]
TOKENIZER_FILES = {  # encoder with quantizers, decoder
    "raw": ("model.safetensors", "model_1.safetensors"),
    "ema": ("model_2.safetensors", "model_3.safetensors"),
}
AR_FILES = {"raw": "model.safetensors", "ema": "model_1.safetensors"}
JOINT_AR_FILES = {"raw": "model_5.safetensors", "ema": "model_6.safetensors"}  # the AR model that Stage 1 trained
IGNORED = re.compile(r"(.*\.)?(pos_select_mask|uncond_ar_labels|logit_mask)")  # constants of the authors' program
TAU, COMMITMENT = 0.1, 0.25  # of the published training (App. E); no tensor tells them


def load_tokenizer(folder: Path, weights: Weights = "ema") -> Tokenizer:
    """The tokenizer of a released folder, fp32, in eval mode; published results use its EMA weights.

    Raises:
        PrologueError: a file is missing or damaged, or tensors are missing, unknown, not finite or of shapes that do
            not fit; the message names each.
    """
    files = [folder / "tokenizer" / name for name in TOKENIZER_FILES[weights]]
    tensors = read_tensors(files)
    where = " and ".join(map(str, files))
    tokenizer = Tokenizer(tokenizer_config(tensors, where))
    sources = tokenizer_sources(tokenizer.config)
    check_fit(tensors, sources, tokenizer, where, IGNORED)
    tokenizer.load_state_dict(convert(tensors, sources))
    return tokenizer.eval()


def load_ar(folder: Path, tokenizer: Tokenizer, weights: Weights = "raw") -> ARModel:
    """The AR model of a released folder, fp32, in eval mode; published samples use its raw weights.

    Args:
        folder: as released.
        tokenizer: the one whose ids the model reads; it tells the codebooks and token counts.
        weights: raw or ema.

    Raises:
        PrologueError: as `load_tokenizer`; also where the vocabulary is another than the tokenizer's.
    """
    file = ar_file(folder, weights)
    tensors = read_tensors([file])
    ar = ARModel(ar_config(tensors, tokenizer, str(file)))
    sources = ar_sources(ar.config)
    check_fit(tensors, sources, ar, str(file), IGNORED)
    ar.load_state_dict(convert(tensors, sources))
    return ar.eval()


def ar_file(folder: Path, weights: Weights) -> Path:
    """The file of a folder's AR model: ar/model*.safetensors.

    Prologue-OneStage has no second stage: where there is no ar/, it is the AR model that Stage 1 trained.
    """
    joint = folder / "tokenizer" / JOINT_AR_FILES[weights]
    if not (folder / "ar").is_dir() and joint.is_file():
        return joint
    return folder / "ar" / AR_FILES[weights]


def tokenizer_config(tensors: dict[str, Tensor], where: str) -> TokenizerConfig:
    """Sizes of a published tokenizer. Raises PrologueError naming tensors without which they cannot be told."""
    one_d = "dec.learnable_query" in tensors
    _require(tensors, "enc.input_layer.weight", "dec.input_layer.weight", "quantizer.embedding.weight", where=where)
    _require(tensors, "quantizer.pos_select_mask", where=where)  # its rows are the visual tokens
    visual_tokens = len(tensors["quantizer.pos_select_mask"])
    codebook, code_dim = tensors["quantizer.embedding.weight"].shape
    patch = math.isqrt(tensors["enc.input_layer.weight"].shape[1] // 3)
    grid = math.isqrt(visual_tokens)
    if grid**2 != visual_tokens:
        raise PrologueError(f"{where}: {visual_tokens} visual tokens are no square grid")
    return TokenizerConfig(
        image_size=grid * patch,
        tokenizer=TokenizerSize(
            layout="1d" if one_d else "2d",
            patch=patch,
            code_dim=code_dim,
            codebook=codebook,
            commitment=COMMITMENT,
            encoder=_size(tensors, "enc", tensors["enc.input_layer.weight"], where),
            decoder=_size(tensors, "dec", tensors["dec.input_layer.weight"], where),
        ),
        prologue=_prologue_config(tensors, where, shared=not one_d and "enc.learnable_query" in tensors),
    )


def _prologue_config(tensors: dict[str, Tensor], where: str, shared: bool) -> PrologueConfig | None:
    """The prologue of an encoder that is `shared` by both token groups, or Prologue-Post's with its own encoder."""
    if not shared and not any(name.startswith("semantic_") for name in tensors):
        return None
    queries = "enc.learnable_query" if shared else "semantic_enc.learnable_query"
    _require(tensors, queries, "semantic_quantizer.embedding.weight", where=where)
    if not shared:
        _require(tensors, "semantic_enc.input_layer.weight", where=where)
    return PrologueConfig(
        tokens=tensors[queries].shape[1],
        codebook=len(tensors["semantic_quantizer.embedding.weight"]),
        tau=TAU,
        encoder=None if shared else _size(tensors, "semantic_enc", tensors["semantic_enc.input_layer.weight"], where),
    )


def ar_config(tensors: dict[str, Tensor], tokenizer: Tokenizer, where: str) -> ARConfig:
    """Sizes of a published AR model over a tokenizer's ids. Raises PrologueError as `tokenizer_config`."""
    _require(tensors, "bos_emb.weight", where=where)
    vocabulary = tokenizer.vocabulary(len(tensors["bos_emb.weight"]) - 1)  # the last is the null class
    size = _size(tensors, "ar_model", tensors["bos_emb.weight"].T, where)
    return ARConfig(vocabulary=vocabulary, transformer=size, tied="ar_model.out.weight" not in tensors)


def tokenizer_sources(config: TokenizerConfig) -> Sources:
    """Which published tensors make each tensor of a `Tokenizer`, and how."""
    layers = config.tokenizer
    assert isinstance(layers, TokenizerSize)
    sources = linear("encoder.stack.input_layer", "enc.input_layer")
    sources |= transformer("encoder.stack.transformer", "enc", layers.encoder.layers, bias=True)
    sources |= linear("decoder.stack.input_layer", "dec.input_layer")
    sources |= transformer("decoder.stack.transformer", "dec", layers.decoder.layers, bias=True)
    sources |= norm("decoder.out_norm", "dec", "out_norm") | linear("decoder.out", "dec.out")
    sources |= _quantizer("visual_quantizer", "quantizer")
    if layers.layout == "1d":
        sources |= _queries("encoder", "enc") | _queries("decoder", "dec")
    if config.prologue:
        sources |= _quantizer("prologue_quantizer", "semantic_quantizer")
        if config.prologue.encoder:
            sources |= linear("prologue_encoder.stack.input_layer", "semantic_enc.input_layer")
            sources |= _queries("prologue_encoder", "semantic_enc")
            own = config.prologue.encoder.layers
            sources |= transformer("prologue_encoder.stack.transformer", "semantic_enc", own, bias=True)
        else:
            sources |= _queries("encoder", "enc")
    return sources


def ar_sources(config: ARConfig) -> Sources:
    """Which published tensors make each tensor of an `ARModel`, and how."""
    sources = plain("class_embedding.weight", "bos_emb.weight") | plain("token_embedding.weight", "semantic_emb.weight")
    sources |= transformer("transformer", "ar_model", config.transformer.layers, bias=False)
    sources |= norm("out_norm", "ar_model", "out_norm")
    return sources if config.tied else sources | plain("out.weight", "ar_model.out.weight")


def _queries(own: str, published: str) -> Sources:
    return {f"{own}.stack.queries": (lambda queries: queries[0], (f"{published}.learnable_query",))}


def _quantizer(own: str, published: str) -> Sources:
    return linear(f"{own}.proj_in", f"{published}.proj_in") | plain(
        f"{own}.codebook.weight", f"{published}.embedding.weight"
    )


def _size(tensors: dict[str, Tensor], prefix: str, first: Tensor, where: str) -> TransformerParams:
    """Layers and dim of a published transformer, from the names of its blocks and the output side of `first`."""
    found = [re.match(rf"{prefix}\.layers\.(\d+)\.", name) for name in tensors]
    layers = max((int(match[1]) + 1 for match in found if match), default=0)
    dim = len(first)
    if not layers or dim % HEAD_DIM:
        raise PrologueError(f"{where}: {prefix} has {layers} layers of dim {dim}, which is no transformer of ours")
    return TransformerParams(layers=layers, dim=dim)


def _require(tensors: dict[str, Tensor], *names: str, where: str) -> None:
    missing = [name for name in names if name not in tensors]
    if missing:
        raise PrologueError(f"{where}: missing tensors: {', '.join(missing)}")
