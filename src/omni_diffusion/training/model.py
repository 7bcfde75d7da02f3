"""The model that a recipe asks for, built, filled and ready to be sharded."""

from __future__ import annotations

from typing import Literal

import torch

from omni_diffusion.backbone.checkpoint import load_dream
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream, initialise
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
) -> Dream:
    """Build a model with its weights, and its adapters where the recipe has them.

    Args:
        recipe: what to build.
        vocabulary: of the corpora.
        device: where it goes.
        dtype: of the parameters. Computation may be in another (`recipe.dtype`).

    Raises:
        WeightsError: the checkpoint is absent, damaged or of another shape or vocabulary, the
            sizes make no model, or there is no speech encoder for speech as features.
    """
    encoder = None
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
        )
        if recipe.speech == "features" and model.speech_config is None:
            raise WeightsError(
                f"{recipe.checkpoint}: holds no speech encoder; give model.speech_encoder"
            )
    else:
        assert recipe.sizes is not None
        config = DreamConfig.for_vocabulary(vocabulary, **recipe.sizes.model_dump())
        with torch.device(device):
            model = Dream(config, encoder.config if encoder else None).to(dtype)
        initialise(model, recipe.seed)
    if encoder is not None:
        model.model.audio_model.model.load_state_dict(encoder.state_dict())
    if recipe.lora is not None:
        add_lora(model, recipe.lora, recipe.seed)
    return model
