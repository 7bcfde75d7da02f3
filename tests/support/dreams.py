"""Language models to test with: that of the conformance vectors, and smaller ones."""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from omni_diffusion.backbone.checkpoint import load_dream
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream, initialise
from omni_diffusion.tokenize.speech.sanm import SenseVoiceConfig
from vectors import vector_set

RECIPE_SEED = 5151


def conformance_dream() -> Dream:
    """The model of the `dream` vectors, by recipe (see its README) where weights are left out."""
    folder = vector_set("dream")
    if (folder / "model.safetensors").is_file():
        return load_dream(folder).eval()
    with tempfile.TemporaryDirectory() as made:
        config = DreamConfig.from_json(folder / "config.json")
        (Path(made) / "config.json").write_text(config.to_json())
        shapes = {k: t.shape for k, t in Dream(config).state_dict().items()}
        weights = {key: _by_recipe(key, shape).half() for key, shape in shapes.items()}
        save_file(weights, Path(made) / "model.safetensors")
        return load_dream(made).eval()


def _by_recipe(key: str, shape: torch.Size) -> Tensor:
    generator = torch.Generator().manual_seed((zlib.crc32(key.encode()) ^ RECIPE_SEED) & 0xFFFFFFFF)
    r = torch.randn(shape, generator=generator)
    if "norm" in key:
        return 1 + 0.1 * r
    if key.endswith("bias"):
        return 0.3 * r
    if "embed_tokens" in key:
        return r
    scales = {"lm_head": 3.0, "q_proj": 1.5, "k_proj": 1.5}
    scale = next((s for part, s in scales.items() if part in key), 1.0)
    return r * scale * shape[1] ** -0.5


def tiny_dream(
    vocab_size: int = 50, seed: int = 0, speech: SenseVoiceConfig | None = None
) -> Dream:
    """Two narrow layers with logits that tell tokens apart; the last id is the mask."""
    config = DreamConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.5,
        mask_token_id=vocab_size - 1,
        pad_token_id=vocab_size - 2,
    )
    model = Dream(config, speech)
    initialise(model, seed)
    return model.eval()


def tiny_speech() -> SenseVoiceConfig:
    """A speech encoder of two layers."""
    return SenseVoiceConfig(
        output_size=8, attention_heads=2, linear_units=12, num_blocks=2, tp_blocks=1, kernel_size=3
    )
