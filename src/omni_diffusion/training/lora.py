"""Low-rank adapters through `peft`: in place before training, merged into what `export` writes."""

from __future__ import annotations

import torch

from omni_diffusion.backbone.dream import Dream, keyed_normal
from omni_diffusion.errors import RecipeError
from omni_diffusion.training.model_recipe import LoraRecipe


def add_lora(model: Dream, recipe: LoraRecipe, seed: int) -> None:
    """Freeze a model and give it adapters, in place. Its output stays the same until they learn.

    Args:
        model: keeps its class; the adapted layers hold their own weights under `base_layer`.
        recipe: which layers, and how wide.
        seed: of the adapters' first matrices. The second ones are zero.

    Raises:
        RecipeError: a target or a fully trained part is no part of the model.
    """
    from peft import LoraConfig, inject_adapter_in_model

    modules = {part for name, _ in model.named_modules() for part in name.split(".")}
    optional = set() if model.speech_config else {"audio_projection"}
    for name in (*recipe.targets, *recipe.fully_trained):
        if name not in modules | optional:
            raise RecipeError(f"lora: the model has no part {name!r}")
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=rf"model\.layers\..*\.({'|'.join(recipe.targets)})",
    )
    inject_adapter_in_model(config, model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_A." in name:
                # The variance of peft's own, from a generator of ours.
                scale = (3 * parameter.shape[1]) ** -0.5
                parameter.copy_(keyed_normal(name, tuple(parameter.shape), seed) * scale)
            if set(name.split(".")) & set(recipe.fully_trained):
                parameter.requires_grad_(True)
