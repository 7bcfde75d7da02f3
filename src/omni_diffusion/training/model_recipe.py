"""What a user says of the model and of how it learns."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from omni_diffusion.recipe import Recipe

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class SizesRecipe(Recipe):
    """Shape of a model that starts from nothing, named as in the published `config.json`."""

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    max_position_embeddings: Count = 4096
    rope_theta: Positive = 1e6
    initializer_range: Positive = 0.02


class LoraRecipe(Recipe):
    """Low-rank adapters (arXiv 2106.09685) instead of all weights."""

    rank: Count = 64
    alpha: Count = 128
    #: The adapters' output counts alpha / rank.
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    #: Linear layers of the language model that get adapters.
    fully_trained: tuple[str, ...] = ("embed_tokens", "lm_head", "audio_projection")
    #: Parts that learn whole: new ids mean nothing before they do.


class ModelRecipe(Recipe):
    """The model: a checkpoint to go on from, or sizes to begin with."""

    checkpoint: str | None = None
    #: Folder or hub name. Over Dream's own vocabulary it is extended to the corpora's.
    sizes: SizesRecipe | None = None
    seed: int = 0
    #: Of fresh weights.
    speech: Literal["codes", "features"] = "codes"
    #: How recordings come in: as codes, or as features through the encoder and a projector.
    speech_encoder: str | None = None
    #: SenseVoice weights, where speech is features and the checkpoint holds no encoder.
    dtype: Literal["float64", "float32", "bfloat16"] = "bfloat16"
    #: Of computation. What is trained is kept in float32 at least; float64 is for comparisons.
    compile: bool = False
    activation_checkpointing: bool = False
    #: Keep only each layer's input, and compute the rest again on the way back.
    lora: LoraRecipe | None = None

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if (self.checkpoint is None) == (self.sizes is None):
            raise ValueError("exactly one of checkpoint and sizes must be given")
        if self.sizes and self.speech == "features" and self.speech_encoder is None:
            raise ValueError("speech as features needs speech_encoder, the weights of SenseVoice")
        if self.speech == "codes" and self.speech_encoder is not None:
            raise ValueError("speech_encoder has no use where speech is codes")
        return self


class OptimRecipe(Recipe):
    """AdamW and its schedule; the defaults are those that the paper states, else marked as ours."""

    steps: Count
    learning_rate: Positive = 1e-4
    betas: tuple[Share, Share] = (0.9, 0.95)
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    #: Of matrices; norms and biases never decay. Published code, stage 3: 0.
    warmup: Share = 0.03
    #: Part of the steps in which the rate rises (published code, stage 3).
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    floor: Share = 0.1
    #: The rate ends at this part of its height (published code, stage 3).
    clip: Positive | None = 1.0
    #: Largest norm of the gradient (published code, stage 3).
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    #: Decay of a moving average of the weights a step; ours, off.
