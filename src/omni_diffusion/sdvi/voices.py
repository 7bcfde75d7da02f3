"""Who speaks: chosen by hash, so that it depends on the record and on nothing else.

The user has one of many voices, the same through a conversation; the assistant always has the same
one (the paper, section on SDVI). Some voices are held out: no training data has them, so that an
evaluation can ask for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import xxhash
from pydantic import Field

from omni_diffusion.errors import RecipeError
from omni_diffusion.recipe import Recipe
from omni_diffusion.sdvi.engines.engine import Voice

_HELD_OUT_SHARE = 5
"""Unless the recipe names them, every fifth voice is held out."""


class VoicesRecipe(Recipe):
    """The cast."""

    assistant: str | None = None
    #: Without a name: the engine's first voice.
    held_out: tuple[str, ...] | None = None
    #: Voices that training data must not have; by default a fifth of them, by hash.
    split: Literal["train", "evaluation"] = "train"
    #: Whether users have the other voices, or those held out.
    rate_spread: float = Field(default=0.10, ge=0, lt=0.5)
    #: Rates lie in 1 - spread to 1 + spread, in whole percent.
    seed: int = 0


class Cast:
    """Voices and rates for records; a pure function of recipe and engine.

    Args:
        voices: all that the engine has.
        recipe: who of them does what.

    Raises:
        RecipeError: a name is no voice of the engine, or nobody is left to speak.
    """

    def __init__(self, voices: Sequence[Voice], recipe: VoicesRecipe) -> None:
        names = [voice.name for voice in voices]
        self._seed, self._spread = recipe.seed, recipe.rate_spread
        self.assistant = recipe.assistant or names[0]
        others = [name for name in names if name != self.assistant]
        if recipe.held_out is None:
            ranked = sorted(others, key=lambda name: _hash("held-out", name))
            held_out = set(ranked[: len(names) // _HELD_OUT_SHARE])
        else:
            held_out = set(recipe.held_out)
        if unknown := sorted({self.assistant, *held_out} - set(names)):
            known = ", ".join(names)
            raise RecipeError(f"voices: the engine has no {unknown[0]!r}; it has {known}")
        evaluation = recipe.split == "evaluation"
        self.users = tuple(name for name in others if (name in held_out) == evaluation)
        self.held_out = tuple(sorted(held_out))
        if not self.users:
            raise RecipeError(f"voices: nobody is left to be the user of the {recipe.split} split")

    def user(self, key: str, attempt: int = 0) -> tuple[str, float]:
        """Voice and rate of a record's user; each attempt has another voice while there are any.

        Every voice draws a lot for the record and the lowest wins: a voice more or less changes
        only the records that it would speak.
        """
        ranked = sorted(self.users, key=lambda name: _hash(self._seed, "user", key, name))
        return ranked[attempt % len(ranked)], self._rate("user", key, attempt)

    def reply(self, key: str, turn: int, attempt: int = 0) -> tuple[str, float]:
        """Voice and rate of the assistant; each attempt of a turn has another rate."""
        return self.assistant, self._rate("assistant", key, turn, attempt)

    def _rate(self, *parts: object) -> float:
        steps = round(self._spread * 100)
        return (100 - steps + _hash(self._seed, "rate", *parts) % (2 * steps + 1)) / 100


def balance(voices: Sequence[Voice], spoken: Iterable[str]) -> dict[str, dict[str, int]]:
    """How often each voice, gender and accent spoke.

    Args:
        voices: of the engine; those that never spoke are listed with 0.
        spoken: the name of the voice of each utterance.
    """
    counts = Counter(spoken)
    report: dict[str, Counter[str]] = {"voice": Counter(), "gender": Counter(), "accent": Counter()}
    for voice in voices:
        for kind in report:
            value = voice.name if kind == "voice" else getattr(voice, kind)
            report[kind][value] += counts[voice.name]
    return {kind: dict(sorted(counter.items())) for kind, counter in report.items()}


def choose(seed: int, key: str, what: str, count: int) -> int:
    """A number below `count` that depends on seed, record and purpose only."""
    return _hash(seed, what, key) % count


def _hash(*parts: object) -> int:
    return xxhash.xxh3_64_intdigest("\x1f".join(map(str, parts)).encode())
