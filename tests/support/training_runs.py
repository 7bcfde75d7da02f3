"""Small runs of the trainer: a recipe over short texts and sounds, and what a run has left."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file
from torch import nn

from omni_diffusion.training.parallel import World
from omni_diffusion.training.train import Outcome, train
from omni_diffusion.training.train_recipe import TrainRecipe
from training_corpora import training_corpus

CLOCKS = ("seconds", "data_wait_s", "useful_tokens_per_s", "memory_mb", "mfu")
"""Entries of a record that no two runs share."""


def short_corpus(folder: Path) -> Path:
    """31 samples in two shards, of which a run of 20 steps needs more than one pass."""
    training_corpus(folder, [16, 15], ["text", "tts", "asr"], seed=5, features=False)
    return folder


def tiny_run(corpus: Path, **changes: Any) -> TrainRecipe:
    """A recipe of 20 steps of three rows; `changes` go by `section={key: value}`."""
    values: dict[str, Any] = {
        "model": {
            "sizes": {
                "hidden_size": 8,
                "intermediate_size": 12,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
            },
            "dtype": "float32",
        },
        "data": {
            "sources": {"made": {"corpus": str(corpus)}},
            "tokenizer": "demo",
            "row_length": 128,
            "rows_per_step": 3,
            "window_rows": 12,
            "evaluation": {"held_out": 0.1},
        },
        "optim": {"steps": 20, "learning_rate": 1e-2, "ema": 0.9, "weight_decay": 0.1},
        "run": {"device": "cpu", "evaluate_every": 5, "checkpoints": {"every": 5}},
    }
    for section, entries in changes.items():
        values[section] = values.get(section, {}) | entries
    return TrainRecipe.model_validate(values)


def stop_here(_step: int, _model: nn.Module) -> None:
    """Ask this process to stop, as a scheduler does."""
    os.kill(os.getpid(), signal.SIGTERM)


def train_to(
    step: int | None, recipe: TrainRecipe, run: Path, world: World | None = None
) -> Outcome:
    """Train up to a step, where SIGTERM comes, or to the end."""
    often = recipe.run.model_copy(update={"samples_every": step})
    callback: Callable[[int, nn.Module], None] | None = stop_here if step else None
    changed = recipe.model_copy(update={"run": often})
    return train(changed, run, world or World(), on_sample=callback)


def metrics(run: Path) -> list[dict[str, Any]]:
    """Records of a run, without clocks."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [{k: v for k, v in record.items() if k not in CLOCKS} for record in records]


def last_state(run: Path) -> dict[str, bytes]:
    """Every tensor of the newest checkpoint of one process, as bytes."""
    newest = max((run / "checkpoints").iterdir())
    (file,) = newest.glob("*.safetensors")
    return {name: array.tobytes() for name, array in load_file(file).items()}


def exported(run: Path) -> dict[str, bytes]:
    """Files of the trained model."""
    return {path.name: path.read_bytes() for path in (run / "model").iterdir()}
