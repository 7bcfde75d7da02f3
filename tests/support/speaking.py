"""An engine that hums and a recogniser that understands it: fast, exact, and made to fail."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from omni_diffusion.corpus.record import Record
from omni_diffusion.sdvi.engines.engine import (
    Engine,
    Speech,
    SpeechError,
    Utterance,
    Voice,
    check_utterance,
)

RATE_HZ = 8_000
_WORD_S, _GAP_S = 0.3, 0.1


class Hummer:
    """Hums a note for each word; what it said can be told from the pitch.

    Attributes:
        spoken: everything that it was asked for, in order.
        fails: what it cannot say.
    """

    name = "hummer"
    fingerprint = "hummer-1"

    def __init__(self, fails: Callable[[Utterance], bool] = lambda _: False) -> None:
        self.voices = tuple(
            Voice(f"v{i}", "female" if i % 2 else "male", "en-US") for i in range(8)
        )
        self.spoken: list[Utterance] = []
        self.fails = fails
        self._pitches: dict[Utterance, float] = {}

    def synthesize(self, text: str, voice: str, rate: float = 1.0) -> Speech:
        """Hum a text."""
        utterance = Utterance(text, voice, rate)
        check_utterance(self, utterance)
        self.spoken.append(utterance)
        if self.fails(utterance):
            raise SpeechError(self.name, "busy", "cannot now")
        pitch_hz = 200 + zlib.crc32(repr(utterance).encode()) % 36_000 / 10
        self._pitches[utterance] = pitch_hz
        time_s = np.arange(round(_WORD_S * RATE_HZ)) / RATE_HZ
        tone = (0.3 * np.sin(2 * np.pi * pitch_hz * time_s)).astype(np.float32)
        gap = np.zeros(round(_GAP_S * RATE_HZ), np.float32)
        words = [piece for _ in text.split() for piece in (gap, tone)]
        return Speech(np.concatenate([*words, gap]), RATE_HZ)

    def synthesize_many(self, utterances: Sequence[Utterance]) -> list[Speech | SpeechError]:
        """Hum some texts."""
        made: list[Speech | SpeechError] = []
        for u in utterances:
            try:
                made.append(self.synthesize(u.text, u.voice, u.rate))
            except SpeechError as error:
                made.append(error)
        return made

    def said(self, sound: Speech) -> Utterance:
        """What a sound of this engine says."""
        spectrum = np.abs(np.fft.rfft(sound.samples, 8 * RATE_HZ))
        pitch_hz = float(spectrum.argmax()) / 8
        return min(self._pitches, key=lambda u: abs(self._pitches[u] - pitch_hz))


class Listener:
    """Understands a hummer, but hears so many words before a text as `mishears` says.

    Attributes:
        heard: how many sounds it was given.
    """

    fingerprint = "listener-1"

    def __init__(self, hummer: Hummer, mishears: Callable[[Utterance], int]) -> None:
        self._hummer, self._mishears = hummer, mishears
        self.heard = 0

    def transcribe_many(self, sounds: Sequence[Speech]) -> list[str]:
        """What is said in each sound."""
        self.heard += len(sounds)
        said = [self._hummer.said(sound) for sound in sounds]
        return [f"{'mumble ' * self._mishears(u)}{u.text}" for u in said]


class Damaging:
    """An engine whose every sound is damaged.

    Args:
        engine: what speaks.
        damage: what is done to each sound.
    """

    def __init__(self, engine: Engine, damage: Callable[[Speech, Utterance], Speech]) -> None:
        self._engine, self._damage = engine, damage
        self.name, self.voices = engine.name, engine.voices
        self.fingerprint = f"{engine.fingerprint}-damaged"

    def synthesize(self, text: str, voice: str, rate: float = 1.0) -> Speech:
        """Speak and damage one text."""
        speech = self._engine.synthesize(text, voice, rate)
        return self._damage(speech, Utterance(text, voice, rate))

    def synthesize_many(self, utterances: Sequence[Utterance]) -> list[Speech | SpeechError]:
        """Speak and damage some texts."""
        return [self.synthesize(u.text, u.voice, u.rate) for u in utterances]


def conversation(*texts: str, task: str = "vqa") -> Record:
    """A record about one picture: questions and answers in turn."""
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": text + "\n<|image|>" * (i == 0)}
        for i, text in enumerate(texts)
    ]
    plain = {"messages": messages, "images": ["a.png"], "task": task, "source": "test"}
    return Record.from_dict({**plain, "license": "MIT", "provenance": {"origin": "row 7"}})


def pictured(caption: str) -> Record:
    """A caption that is answered with its picture."""
    messages = [
        {"role": "user", "content": caption},
        {"role": "assistant", "content": "<|image|>"},
    ]
    return Record.from_dict({"messages": messages, "images": ["a.png"], "task": "t2i"})
