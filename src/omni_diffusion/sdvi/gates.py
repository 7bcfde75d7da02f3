"""Which sounds are good enough, which are tried again with another voice, which are refused.

Every value that a decision rests on is returned with it and goes into the corpus, so thresholds
can be moved afterwards by a query. The defaults and what they do to real data are explained in
`docs/sdvi.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from pydantic import Field

from omni_diffusion.recipe import Recipe
from omni_diffusion.sdvi.recognisers import compare
from omni_diffusion.sdvi.sound import SoundMeasures


class GateRecipe(Recipe):
    """Thresholds. Ranges include their ends."""

    attempts: int = Field(default=3, ge=1)
    #: How often an utterance is spoken, each time differently, before it is refused.
    wer_keep: float = Field(default=0.10, ge=0)
    #: Texts up to this word error rate are kept.
    wer_reject: float = Field(default=0.60, ge=0)
    #: Beyond this one, no other voice is tried.
    short_words: int = Field(default=4, ge=0)
    #: Texts of so few words are judged by characters: one word would be a quarter of them.
    cer_keep: float = Field(default=0.20, ge=0)
    cer_reject: float = Field(default=1.0, ge=0)
    cer_close: float = Field(default=0.10, ge=0)
    #: So close in characters, a longer text is kept too: "the bottle" for "a bottle".
    duration_s: tuple[float, float] = (0.3, 60.0)
    words_per_s: tuple[float, float] = (1.2, 5.5)
    #: Between the first and the last sound; not for short texts.
    end_silence_s: float = Field(default=1.5, gt=0)
    #: Longest silence at either end (it is trimmed afterwards).
    silence_s: float = Field(default=1.2, gt=0)
    #: Longest silence in between.
    rms_dbfs: tuple[float, float] = (-40.0, -10.0)
    clipped_share: float = Field(default=0.001, ge=0)
    #: Share of samples at full scale.
    end_db: float = -30.0
    #: Level of the last 20 ms relative to the speech; louder means cut off.
    noise_db: float = -12.0
    #: Level of the quietest tenth relative to the speech; louder means noise.


class Decision(Enum):
    """What happens to an utterance."""

    KEEP = "keep"
    RETRY = "retry"
    REJECT = "reject"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A decision with all that led to it.

    Attributes:
        decision: keep, retry or reject.
        reasons: names of the gates that were missed, e.g. `wer`; empty for a good sound.
        values: everything measured, by the names of the sidecar's columns and more.
        detail: the missed gates with value and threshold, for a person.
    """

    decision: Decision
    reasons: tuple[str, ...]
    values: Mapping[str, float]
    detail: str = ""


def judge(sound: SoundMeasures, text_spoken: str, heard: str | None, recipe: GateRecipe) -> Verdict:
    """Decide about a sound.

    Args:
        sound: what was measured, as the engine made it.
        text_spoken: what it should say.
        heard: what a recogniser heard, or None where there is none.
        recipe: the thresholds.

    Raises:
        RecipeError: `heard` is given and the packages to compare texts are not installed.
    """
    words = len(text_spoken.split())
    values = {
        "duration_s": sound.duration_s,
        "words_per_s": words / sound.spoken_s if sound.spoken_s else 0.0,
        "peak": sound.peak,
        "rms_dbfs": sound.rms_dbfs,
        "silence_s": sound.silence_s,
        "end_silence_s": max(sound.leading_s, sound.trailing_s),
        "clipped_share": sound.clipped_share,
        "end_db": sound.end_db,
        "noise_db": sound.noise_db,
    }
    hopeless = False
    if heard is not None:
        errors = compare(text_spoken, heard)
        values |= {"wer": errors.wer, "cer": errors.cer, "normalized_words": errors.words}
        if errors.words > recipe.short_words:
            hopeless = errors.wer > recipe.wer_reject
        else:
            hopeless = errors.cer > recipe.cer_reject
    wanted = bounds(values, words, recipe)
    missed = [name for name, (low, high) in wanted.items() if not low <= values[name] <= high]
    decision = Decision.KEEP if not missed else Decision.REJECT if hopeless else Decision.RETRY
    detail = "; ".join(
        f"{name} {values[name]:.3g}, not {wanted[name][0]:g} to {wanted[name][1]:g}"
        for name in missed
    )
    if heard is not None and missed:
        detail += f"; heard {heard[:200]!r}"
    return Verdict(decision=decision, reasons=tuple(missed), values=values, detail=detail)


def bounds(
    values: Mapping[str, float], words: int, recipe: GateRecipe
) -> dict[str, tuple[float, float]]:
    """What each gate that looks at an utterance lets through, both ends included.

    Args:
        values: what `judge` measured.
        words: of the spoken text.
        recipe: the thresholds.
    """
    found: dict[str, tuple[float, float]] = {
        "duration_s": recipe.duration_s,
        "rms_dbfs": recipe.rms_dbfs,
        "silence_s": (0.0, recipe.silence_s),
        "end_silence_s": (0.0, recipe.end_silence_s),
        "clipped_share": (0.0, recipe.clipped_share),
        "end_db": (-200.0, recipe.end_db),
        "noise_db": (-200.0, recipe.noise_db),
    }
    if words > recipe.short_words:
        found["words_per_s"] = recipe.words_per_s
    if "wer" in values:
        if values["normalized_words"] <= recipe.short_words:
            found["cer"] = (0.0, recipe.cer_keep)
        else:
            # So close in letters that words do not matter.
            close = values["cer"] <= recipe.cer_close
            found["wer"] = (0.0, max(recipe.wer_keep, values["wer"] if close else 0.0))
    return found
