"""The model that a recipe asks for, built, filled and ready to be sharded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from omni_diffusion.backbone.checkpoint import load_dream
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream, initialise, put_whole
from omni_diffusion.errors import WeightsError
from omni_diffusion.tokenize.speech.sensevoice import SpeechFeatures
from omni_diffusion.tokenize.vocabulary import Vocabulary
from omni_diffusion.training.lora import add_lora
from omni_diffusion.training.model_recipe import ModelRecipe


def build_model(
    recipe: ModelRecipe,
    vocabulary: Vocabulary,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    lay_out: Callable[[Dream], None] | None = None,
) -> Dream:
    """Build a model with its weights, and its adapters where the recipe has them.

    Args:
        recipe: what to build.
        vocabulary: of the corpora.
        device: where it goes.
        dtype: of the parameters. Computation may be in another (`recipe.dtype`).
        lay_out: shards the model, before it has memory; with adapters, after it was filled.

    Raises:
        WeightsError: the checkpoint is absent, damaged or of another shape or vocabulary, the
            sizes make no model, or there is no speech encoder for speech as features.
    """
    encoder, early = None, lay_out if recipe.lora is None else None
    if recipe.speech_encoder is not None:
        encoder = SpeechFeatures.from_pretrained(recipe.speech_encoder, dtype=dtype).encoder
    if recipe.checkpoint is not None:
        held: Literal["held", "none"] = "held" if recipe.speech == "features" else "none"
        model = load_dream(
            recipe.checkpoint,
            vocabulary=vocabulary,
            speech=encoder.config if encoder else held,
            device=device,
            dtype=dtype,
            seed=recipe.seed,
            lay_out=early,
        )
        if recipe.speech == "features" and model.speech_config is None:
            raise WeightsError(
                f"{recipe.checkpoint}: holds no speech encoder; give model.speech_encoder"
            )
    else:
        assert recipe.sizes is not None
        config = DreamConfig.for_vocabulary(vocabulary, **recipe.sizes.model_dump())
        with torch.device("meta"):
            model = Dream(config, encoder.config if encoder else None).to(dtype)
        if early is not None:
            early(model)
        model = model.to_empty(device=device)
        initialise(model, recipe.seed)
    if encoder is not None:
        held_by_model = model.model.audio_model.model.state_dict()
        with torch.no_grad():
            for key, tensor in encoder.state_dict().items():
                put_whole(held_by_model[key], tensor)
    if recipe.lora is not None:
        add_lora(model, recipe.lora, recipe.seed)
        for parameter in model.parameters():
            if parameter.requires_grad and dtype == torch.bfloat16:
                parameter.data = parameter.data.float()  # small steps would be rounded away
        if lay_out is not None:
            lay_out(model)
    return model
