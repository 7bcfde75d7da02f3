"""The mixture that somebody wants, to hold against the one that a corpus is."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import Field

from omni_diffusion.recipe import Recipe, load_recipe


class Weights(Recipe):
    """A YAML file such as `weights: {t2i: 0.4, asr: 0.2}`."""

    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(min_length=1)
    #: Parts of the supervised tokens, relative to their sum, by task, source or language.


def load_weights(path: str | os.PathLike[str]) -> dict[str, float]:
    """Read a file of weights.

    Raises:
        RecipeError: it cannot be read or says something else; names the key.
    """
    return load_recipe(path, Weights).weights
