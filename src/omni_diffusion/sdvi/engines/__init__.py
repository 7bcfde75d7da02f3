"""Speech engines: `engine` says what one is; `edge`, `kokoro` and `pico` are three."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from omni_diffusion.sdvi.engines.edge import EdgeEngine, EdgeRecipe
from omni_diffusion.sdvi.engines.engine import Engine, Speech, SpeechError, Utterance, Voice
from omni_diffusion.sdvi.engines.kokoro import KokoroEngine, KokoroRecipe
from omni_diffusion.sdvi.engines.pico import PicoEngine, PicoRecipe

EngineRecipe = Annotated[EdgeRecipe | KokoroRecipe | PicoRecipe, Field(discriminator="kind")]

__all__ = [
    "EdgeRecipe",
    "Engine",
    "EngineRecipe",
    "KokoroRecipe",
    "PicoRecipe",
    "Speech",
    "SpeechError",
    "Utterance",
    "Voice",
    "open_engine",
]


def open_engine(recipe: EdgeRecipe | KokoroRecipe | PicoRecipe) -> Engine:
    """Load the engine that a recipe names.

    Raises:
        RecipeError: its package is not installed, or it cannot work here.
        WeightsError: its model is not there.
    """
    if isinstance(recipe, EdgeRecipe):
        return EdgeEngine(recipe)
    if isinstance(recipe, KokoroRecipe):
        return KokoroEngine(recipe)
    return PicoEngine()
