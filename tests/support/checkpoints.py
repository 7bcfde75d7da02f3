"""A checkpoint over the demo vocabulary, untrained, as training exports one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omni_diffusion.backbone.checkpoint import save_checkpoint
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream, initialise
from omni_diffusion.tokenize.media import MediaTokenizers
from omni_diffusion.tokenize.text import TextTokenizer

_DEMO = MediaTokenizers.demo()
FINGERPRINTS = {
    "text": TextTokenizer.from_pretrained("demo").fingerprint,
    "image": _DEMO.image_tokenizer.fingerprint,
    "speech": _DEMO.speech_tokenizer.fingerprint,
}
"""Of the demo tokenizers."""


def demo_dream(seed: int = 0, **sizes: Any) -> Dream:
    """A tiny model with the demo vocabulary; it answers at random, but anything."""
    shape: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.5,
    }
    vocabulary = TextTokenizer.from_pretrained("demo").vocabulary
    model = Dream(DreamConfig.for_vocabulary(vocabulary, **shape | sizes))
    initialise(model, seed)
    return model.eval()


def demo_checkpoint(folder: Path, seed: int = 0, **fingerprints: str) -> Path:
    """Write such a model to a folder, with its `omni-diffusion.json`."""
    model = demo_dream(seed)
    save_checkpoint(model.state_dict(), model.config, folder)
    about = {"tokenizer": "demo", "vocabulary": FINGERPRINTS | fingerprints}
    (folder / "omni-diffusion.json").write_text(json.dumps(about))
    return folder
