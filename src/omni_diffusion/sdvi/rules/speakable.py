"""From a text as it came to a text that a voice can read, or to the rule that refused it.

Three forms are kept, because each is somebody's truth: `text_raw` as it came, `text_written` as a
reader would have it (what the model learns to write), `text_spoken` as it is read aloud (what the
recogniser must hear).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

import xxhash
from pydantic import Field

from omni_diffusion.recipe import Recipe
from omni_diffusion.sdvi.rules import clean, numbers, select, words
from omni_diffusion.sdvi.rules.rule import Dropped, DropRule, TransformRule

Kind = Literal["question", "answer", "caption"]

EMPTY, LENGTH, ALPHABET = "R0.empty", "R7.length", "R9.alphabet"

WRITTEN = (*select.FIRST, *clean.BEFORE_SELECTION, *select.CONTENT, *clean.MARKUP)
"""Rules that lead to the written text, in the order in which they are applied."""

SPOKEN = (words.ABBREVIATION, *numbers.NUMBERS, *words.WORDS)
"""Rules that lead from there to the spoken text."""

RULES: tuple[DropRule | TransformRule, ...] = (*WRITTEN, *SPOKEN)


class LengthRecipe(Recipe):
    """R7: how many words, as written, a text may have. Shorter and longer ones are dropped."""

    question_words: tuple[int, int] = (2, 40)
    answer_words: tuple[int, int] = (1, 100)
    #: The paper's limit; 100 words take some 40 seconds.
    caption_words: tuple[int, int] = (3, 60)


class RulesRecipe(Recipe):
    """What texts are taken."""

    length: LengthRecipe = LengthRecipe()
    without: tuple[str, ...] = Field(default=())
    #: Ids of drop rules that shall not be applied, e.g. `R2.math`.


_DEFAULT = RulesRecipe()


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """A text that can be read aloud.

    Attributes:
        text_raw: as it came.
        text_written: cleaned, with digits and signs: for readers.
        text_spoken: letters, spaces and `' , . ? ! ; : -` only: for voices.
        rules: ids of the rules that changed something, in order.
    """

    text_raw: str
    text_written: str
    text_spoken: str
    rules: tuple[str, ...]


@lru_cache(maxsize=4096)  # the same short answers come again and again
def speakable(text_raw: str, kind: Kind, recipe: RulesRecipe = _DEFAULT) -> Spoken | Dropped:
    """Apply all rules to one text. Any text whatever has a result; none raises.

    Args:
        text_raw: as it came.
        kind: what it is; decides how long it may be.
        recipe: limits, and rules to leave out.
    """
    text, applied = text_raw, list[str]()
    for rule in WRITTEN:
        if isinstance(rule, TransformRule):
            text = _apply(rule, text, applied)
        elif rule.id not in recipe.without and (piece := rule.find(text)) is not None:
            return Dropped(rule=rule.id, detail=piece)
    written = text.strip()
    if not any(c.isalnum() for c in written):
        return Dropped(rule=EMPTY, detail="nothing that could be spoken is left")
    low, high = _limits(kind, recipe.length)
    if not low <= (count := len(written.split())) <= high:
        return Dropped(rule=LENGTH, detail=f"{count} words, a {kind} has {low} to {high}")
    for rule in SPOKEN:
        text = _apply(rule, text, applied)
    if (piece := words.unspeakable(text)) is not None:
        return Dropped(rule=ALPHABET, detail=f"no rule says how to read {piece!r}")
    if not any(c.isalpha() for c in text):
        return Dropped(rule=EMPTY, detail="nothing that could be spoken is left")
    return Spoken(text_raw=text_raw, text_written=written, text_spoken=text, rules=tuple(applied))


@cache
def rules_version() -> str:
    """A short text that changes whenever any rule does: part of a corpus's provenance."""
    versions = ",".join(f"{rule.id}={rule.version}" for rule in RULES)
    return xxhash.xxh3_64_hexdigest(versions.encode())


def _apply(rule: TransformRule, text: str, applied: list[str]) -> str:
    changed = rule.apply(text)
    if changed != text:
        applied.append(rule.id)
    return changed


def _limits(kind: Kind, recipe: LengthRecipe) -> tuple[int, int]:
    limits = {
        "question": recipe.question_words,
        "answer": recipe.answer_words,
        "caption": recipe.caption_words,
    }
    return limits[kind]
