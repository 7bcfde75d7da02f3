"""Memory and time of a training recipe on N GPUs, from shapes alone.

Nothing is loaded and nothing is run: the model is built on PyTorch's meta device and counted.

Memory of one GPU, with FSDP2 over all of them (P parameters, of which T are trained, on N GPUs):

    weights      b P / N, kept as they are stored: b = 4, but 2 where adapters leave them frozen
    gradients    4 T / N
    AdamW        8 T / N, and 4 T / N for a moving average
    working set  w (embedding + output layer + 2 layers): what is gathered at one time, w = 2 for
                 bfloat16, 4 for float32; nothing on one GPU, which holds all of it anyway, unless
                 weights are stored in float32 and used in bfloat16
    activations  w tokens (8 h + 2 k + 4 f) a layer (h hidden, k keys, f feed-forward width), or
                 w tokens h a layer and one full layer with activation checkpointing
    head         one chunk of rows by the vocabulary in float32 and once more in w, and w times the
                 gradient of the output layer

Operations of one step: those that `flops.ModelFlops` says are spent.

Seconds = operations / (N peak efficiency). Peak and efficiency are assumptions of the caller: this
file knows no GPU. Left out: communication, the speech encoder's time, allocator fragmentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ConfigDict

from omni_diffusion.backbone.checkpoint import CONFIG
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.errors import RecipeError
from omni_diffusion.recipe import Recipe
from omni_diffusion.tokenize.speech.sanm import SenseVoiceConfig
from omni_diffusion.tokenize.vocabulary import Vocabulary
from omni_diffusion.tokenize.weights import resolve_weights
from omni_diffusion.training.flops import ModelFlops
from omni_diffusion.training.lora import add_lora
from omni_diffusion.training.loss import CHUNK_ROWS
from omni_diffusion.training.model_recipe import ModelRecipe, OptimRecipe
from omni_diffusion.training.recipe import DataRecipe

PUBLISHED = ("Dream-org/Dream-v0-Instruct-7B", "lijiang/Omni-Diffusion")
"""Checkpoints whose shape is known without a network."""


class EstimateRecipe(Recipe):
    """The parts of a training recipe that decide what it costs; others are not looked at."""

    model_config = ConfigDict(extra="ignore")

    model: ModelRecipe
    data: DataRecipe
    optim: OptimRecipe


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What an estimate cannot know.

    Attributes:
        gpus: how many.
        peak_flops: dense operations a second of one GPU, in the recipe's dtype.
        efficiency: part of the peak that is reached (MFU).
        rows_per_pass: rows that one GPU computes at once.
        sample_tokens: average length of the samples that share a row.
        masked_share: part of the positions that are targets.
    """

    gpus: int
    peak_flops: float
    efficiency: float
    rows_per_pass: int
    sample_tokens: int
    masked_share: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a recipe costs; memory in bytes of one GPU.

    Attributes:
        parameters: of the model, adapters included.
        trained: those that learn.
        memory: bytes by purpose, as in the module's docstring.
        step_flops: operations of one step, all GPUs together.
        step_seconds: time of one step.
        total_hours: time of all steps.
        tokens_per_second: positions a second, all GPUs together.
    """

    parameters: int
    trained: int
    memory: dict[str, int]
    step_flops: float
    step_seconds: float
    total_hours: float
    tokens_per_second: float


def estimate(recipe: EstimateRecipe, vocabulary: Vocabulary, given: Assumptions) -> Estimate:
    """Work out what a recipe costs.

    Args:
        recipe: model, rows and steps.
        vocabulary: of the corpora.
        given: the machine, and what is known of the data.

    Raises:
        RecipeError: a step has too few rows for the GPUs.
        WeightsError: the checkpoint's shape cannot be read.
    """
    if recipe.data.rows_per_step < given.gpus * given.rows_per_pass:
        raise RecipeError(
            f"data.rows_per_step {recipe.data.rows_per_step} are too few for {given.gpus} GPUs "
            f"with {given.rows_per_pass} rows each"
        )
    model = _on_meta(recipe.model, vocabulary)
    tokens = recipe.data.rows_per_step * recipe.data.row_length
    flops = _step_flops(model, recipe.model, tokens, given)
    seconds = flops / (given.gpus * given.peak_flops * given.efficiency)
    return Estimate(
        parameters=_count(model.parameters()),
        trained=_count(p for p in model.parameters() if p.requires_grad),
        memory=_memory(model, recipe, given),
        step_flops=flops,
        step_seconds=seconds,
        total_hours=seconds * recipe.optim.steps / 3600,
        tokens_per_second=tokens / seconds,
    )


def _on_meta(recipe: ModelRecipe, vocabulary: Vocabulary) -> Dream:
    """The model that a recipe describes, without its numbers."""
    if recipe.sizes is not None:
        config = DreamConfig.for_vocabulary(vocabulary, **recipe.sizes.model_dump())
    else:
        assert recipe.checkpoint is not None
        config = DreamConfig()
        if recipe.checkpoint not in PUBLISHED:
            config = DreamConfig.from_json(resolve_weights(recipe.checkpoint) / CONFIG)
        sizes = {k: v for k, v in vars(config).items() if not k.endswith(("vocab_size", "_id"))}
        config = DreamConfig.for_vocabulary(vocabulary, **sizes)
    with torch.device("meta"):
        model = Dream(config, SenseVoiceConfig() if recipe.speech == "features" else None)
        if recipe.lora is not None:
            add_lora(model, recipe.lora, recipe.seed)
    return model


def _count(parameters: Any) -> int:
    return sum(p.numel() for p in parameters)


def _memory(model: Dream, recipe: EstimateRecipe, given: Assumptions) -> dict[str, int]:
    config, width = model.config, 2 if recipe.model.dtype == "bfloat16" else 4
    trained = _count(p for p in model.parameters() if p.requires_grad)
    frozen = _count(model.parameters()) - trained
    head = model.lm_head.weight
    ends = head.numel() + model.model.embed_tokens.weight.numel()
    gathered = ends + 2 * _count(model.model.layers[0].parameters())
    frozen_bytes = width if recipe.model.lora else 4
    copies = given.gpus > 1 or width == 2
    tokens = given.rows_per_pass * recipe.data.row_length
    keys = config.num_key_value_heads * config.head_size
    layer = 8 * config.hidden_size + 2 * keys + 4 * config.intermediate_size
    kept = config.num_hidden_layers * layer
    if recipe.model.activation_checkpointing:
        kept = config.num_hidden_layers * config.hidden_size + layer
    head_gradient = width * head.numel() if head.requires_grad else 0
    return {
        "weights": (4 * trained + frozen_bytes * frozen) // given.gpus,
        "gradients": 4 * trained // given.gpus,
        "AdamW": (8 + 4 * (recipe.optim.ema is not None)) * trained // given.gpus,
        "working set": width * gathered * copies,
        "activations": width * tokens * kept,
        "head": CHUNK_ROWS * config.vocab_size * (4 + width) + head_gradient,
    }


def _step_flops(model: Dream, recipe: ModelRecipe, tokens: int, given: Assumptions) -> float:
    pairs, targets = tokens * given.sample_tokens, given.masked_share * tokens
    again = recipe.activation_checkpointing
    return ModelFlops.of(model).spent(tokens, pairs, targets, checkpointing=again)
