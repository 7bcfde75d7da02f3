"""The data recipe of most training tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omni_diffusion.training.recipe import DataRecipe


def make_recipe(corpora: Path | str, **changes: Any) -> DataRecipe:
    """The recipe of most tests, with some values changed."""
    sources = {
        "heard": {"corpus": f"{corpora}/heard", "weight": 2.0},
        "coded": {"corpus": f"{corpora}/coded"},
    }
    values: dict[str, Any] = {
        "sources": sources,
        "tokenizer": "demo",
        "row_length": 512,
        "rows_per_step": 4,
        "window_rows": 24,
        "shuffle_shards": 2,
    }
    return DataRecipe.model_validate(values | changes)
