"""What a speech engine is: text, voice and rate to samples, the same every time.

The sound of an utterance must depend on nothing else, neither on what was spoken before it nor on
what is spoken beside it: then a corpus can be made again, and a cache may answer instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from omni_diffusion.errors import MediaError

RATES = (0.5, 2.0)
"""Slowest and fastest rate, as a factor of the voice's own."""

MAX_CHARACTERS = 2_000
"""Some 300 words. More would be cut into pieces by one engine and refused by another."""


class SpeechError(MediaError):
    """An engine could not speak a text.

    Attributes:
        engine: which one.
        reason: what happened, in a countable word or two: `text`, `voice`, `rate`, `refused`,
            `busy`, `no audio`, `no sound`, `truncated`, `timeout`, `connection`, `protocol`,
            `engine`.
        detail: the whole story.
    """

    def __init__(self, engine: str, reason: str, detail: str) -> None:
        super().__init__(engine, f"{reason}: {detail}")
        self.engine, self.reason, self.detail = engine, reason, detail


@dataclass(frozen=True, slots=True, eq=False)
class Speech:
    """Mono sound: float32 `[n]` in -1..1."""

    samples: NDArray[np.float32]
    sample_rate_hz: int

    @property
    def duration_s(self) -> float:
        """Seconds."""
        return len(self.samples) / self.sample_rate_hz


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice of an engine: `female`, `male` or `unknown`, with an accent such as `en-GB`."""

    name: str
    gender: str
    accent: str


@dataclass(frozen=True, slots=True)
class Utterance:
    """What is to be spoken: a text from `speakable`, in a voice, at a rate in whole percent."""

    text: str
    voice: str
    rate: float = 1.0


class Engine(Protocol):
    """A speech engine. Its sound is a function of the utterance and of `fingerprint`."""

    name: str
    fingerprint: str
    #: Engine, version and model: changes whenever the sound may.
    voices: tuple[Voice, ...]

    def synthesize(self, text: str, voice: str, rate: float = 1.0) -> Speech:
        """Speak one text.

        Raises:
            SpeechError: it cannot be spoken, or was not spoken whole.
        """
        ...

    def synthesize_many(self, utterances: Sequence[Utterance]) -> list[Speech | SpeechError]:
        """Speak many texts: for each, in their order, its sound or the reason why not."""
        ...


def one_by_one(engine: Engine, utterances: Iterable[Utterance]) -> list[Speech | SpeechError]:
    """`synthesize_many` for engines that have no better way."""
    made: list[Speech | SpeechError] = []
    for utterance in utterances:
        try:
            made.append(engine.synthesize(utterance.text, utterance.voice, utterance.rate))
        except SpeechError as error:
            made.append(error)
    return made


def check_utterance(engine: Engine, utterance: Utterance) -> None:
    """Refuse what no engine shall be asked: every engine calls this first.

    Raises:
        SpeechError: a text that is empty, too long or holds markup or control characters (some
            engines obey tags in the text, others fall silent); a voice that the engine does not
            have; a rate outside `RATES`, or finer than a percent.
    """
    text, rate = utterance.text, utterance.rate
    if not any(c.isalnum() for c in text):
        raise SpeechError(engine.name, "text", f"nothing to speak in {text[:40]!r}")
    if len(text) > MAX_CHARACTERS:
        raise SpeechError(engine.name, "text", f"{len(text)} characters, at most {MAX_CHARACTERS}")
    if found := re.search(r"[^\w ',.?!;:\"()-]|_", text):
        raise SpeechError(engine.name, "text", f"holds {found[0]!r}, which is not for voices")
    if utterance.voice not in {voice.name for voice in engine.voices}:
        raise SpeechError(engine.name, "voice", f"has no voice {utterance.voice!r}")
    if not RATES[0] <= rate <= RATES[1] or round(rate, 2) != rate:
        raise SpeechError(engine.name, "rate", f"{rate} is not one of 0.50, 0.51, ..., 2.00")
