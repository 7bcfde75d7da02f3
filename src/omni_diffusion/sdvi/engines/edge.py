"""Microsoft Edge's read-aloud voices through the package `edge-tts`, unmodified (LGPL-3).

An unofficial end point: see `docs/sdvi.md` for the terms. It limits callers without saying how, so
few requests run at a time, and a failed one is repeated after a random pause that doubles.

Two failures look like success to the package, and are found here:

* *Cut short.* A connection that breaks in mid-stream ends the sound without an error. The service
  names each sentence with its text and its time: all of the text must be named, and the sound must
  last as long as the last sentence.
* *Nothing said.* A blank text gives no sound and no error. Such texts are refused beforehand.

A clock that differs from the service's is answered with 403; the package corrects it once, and the
repetition here does it again.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import io
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import soundfile
from pydantic import Field

from omni_diffusion.errors import RecipeError
from omni_diffusion.recipe import Recipe
from omni_diffusion.sdvi.engines.engine import (
    Speech,
    SpeechError,
    Utterance,
    Voice,
    check_utterance,
)

_TICKS_PER_S = 10_000_000
_SHORTER_S = 0.15
"""How much sound may be missing at the end: sentences are timed before the MP3 encoder's delay."""

_VOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "en-US": {
        "female": ("Aria", "Ava", "Emma", "Jenny", "Michelle"),
        "male": ("Andrew", "Brian", "Christopher", "Eric", "Guy", "Roger", "Steffan"),
    },
    "en-GB": {"female": ("Libby", "Sonia"), "male": ("Ryan", "Thomas")},
    "en-AU": {"female": ("Natasha",), "male": ()},
    "en-CA": {"female": ("Clara",), "male": ("Liam",)},
    "en-IE": {"female": ("Emily",), "male": ("Connor",)},
    "en-IN": {"female": ("Neerja",), "male": ("Prabhat",)},
    "en-NZ": {"female": ("Molly",), "male": ("Mitchell",)},
    "en-ZA": {"female": ("Leah",), "male": ("Luke",)},
}


class EdgeVoice(Recipe):
    """A voice of the service, e.g. `en-US-EmmaNeural`."""

    name: str = Field(pattern=r"^[a-z]{2,}-[A-Z]{2,}-.+Neural$")
    gender: Literal["female", "male", "unknown"] = "unknown"


class EdgeRecipe(Recipe):
    """How the service is asked."""

    kind: Literal["edge"] = "edge"
    concurrency: int = Field(default=8, ge=1, le=64)
    #: Requests at a time. People report refusals from some 40 on.
    attempts: int = Field(default=5, ge=1)
    #: Of each utterance, the first one included.
    backoff_s: float = Field(default=1.0, gt=0)
    #: Upper bound of the first pause; each further one may be twice as long.
    longest_backoff_s: float = Field(default=60.0, gt=0)
    timeout_s: float = Field(default=60.0, gt=0)
    #: For one utterance, from the connection to the last byte.
    proxy: str | None = None
    #: HTTP proxy that connections go through, e.g. `http://127.0.0.1:3128`.
    voices: tuple[EdgeVoice, ...] = ()
    #: Instead of the English voices known here.


class Answer(NamedTuple):
    """What the service sent: MP3, and each sentence's text and end in seconds."""

    mp3: bytes
    sentences: list[tuple[str, float]]


class EdgeEngine:
    """See the module.

    Raises:
        RecipeError: the packages are not installed.
    """

    name = "edge"

    def __init__(self, recipe: EdgeRecipe) -> None:
        try:
            import edge_tts
            import tenacity
        except ImportError as error:
            hint = "pip install 'omni-diffusion[sdvi]'"
            raise RecipeError(f"engine edge: {error}; {hint}") from None
        self._recipe, self._edge_tts, self._tenacity = recipe, edge_tts, tenacity
        self.fingerprint = f"edge-tts-{importlib.metadata.version('edge-tts')}"
        self.voices = tuple(
            Voice(v.name, v.gender, v.name.rpartition("-")[0]) for v in recipe.voices
        ) or tuple(
            Voice(f"{accent}-{name}Neural", gender, accent)
            for accent, genders in _VOICES.items()
            for gender, names in genders.items()
            for name in names
        )

    def synthesize(self, text: str, voice: str, rate: float = 1.0) -> Speech:
        """Speak one text; see `engine.Engine`."""
        (made,) = self.synthesize_many([Utterance(text, voice, rate)])
        if isinstance(made, SpeechError):
            raise made
        return made

    def synthesize_many(self, utterances: Sequence[Utterance]) -> list[Speech | SpeechError]:
        """Speak many texts, `concurrency` at a time; not to be called from a running event loop."""
        return asyncio.run(self._all(utterances))

    async def _all(self, utterances: Sequence[Utterance]) -> list[Speech | SpeechError]:
        at_a_time = asyncio.Semaphore(self._recipe.concurrency)
        return await asyncio.gather(*(self._one(u, at_a_time) for u in utterances))

    async def _one(self, u: Utterance, at_a_time: asyncio.Semaphore) -> Speech | SpeechError:
        t = self._tenacity
        attempts = t.AsyncRetrying(
            stop=t.stop_after_attempt(self._recipe.attempts),
            wait=t.wait_random_exponential(
                multiplier=self._recipe.backoff_s, max=self._recipe.longest_backoff_s
            ),
            retry=t.retry_if_exception_type(SpeechError),
            reraise=True,
        )
        try:
            check_utterance(self, u)

            async def attempt() -> Speech:
                # A place in the queue is not held during the pause.
                async with at_a_time:
                    return self._checked(u, await self._ask(u))

            speech: Speech = await attempts(attempt)
            return speech
        except SpeechError as error:
            return error

    async def _ask(self, u: Utterance) -> Answer:
        """One request. All that edge-tts and aiohttp raise becomes a `SpeechError`."""
        import aiohttp

        mp3, sentences = bytearray(), []
        try:
            request = self._edge_tts.Communicate(
                u.text, u.voice, rate=f"{round((u.rate - 1) * 100):+d}%", proxy=self._recipe.proxy
            )
            async with asyncio.timeout(self._recipe.timeout_s):
                async for part in request.stream():
                    if part["type"] == "audio":
                        mp3 += part["data"]
                    else:
                        end_s = (part["offset"] + part["duration"]) / _TICKS_PER_S
                        sentences.append((part["text"], end_s))
        except TimeoutError:
            detail = f"no whole answer in {self._recipe.timeout_s:g} s"
            raise SpeechError(self.name, "timeout", detail) from None
        except aiohttp.ClientResponseError as error:
            reason = {403: "refused", 429: "busy", 503: "busy"}.get(error.status, "protocol")
            raise SpeechError(self.name, reason, f"HTTP {error.status} {error.message}") from error
        except self._edge_tts.exceptions.NoAudioReceived as error:
            raise SpeechError(self.name, "no audio", str(error)) from error
        except self._edge_tts.exceptions.SkewAdjustmentError as error:
            raise SpeechError(self.name, "refused", f"HTTP 403 and no date: {error}") from error
        except self._edge_tts.exceptions.EdgeTTSException as error:
            detail = f"{type(error).__name__}: {error}"
            raise SpeechError(self.name, "protocol", detail) from error
        except (aiohttp.ClientError, OSError) as error:
            detail = f"{type(error).__name__}: {error}"
            raise SpeechError(self.name, "connection", detail) from error
        return Answer(bytes(mp3), sentences)

    def _checked(self, u: Utterance, answer: Answer) -> Speech:
        """The decoded answer, if it is whole."""
        try:
            samples, rate_hz = soundfile.read(io.BytesIO(answer.mp3), dtype="float32")
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise SpeechError(self.name, "protocol", f"not MP3: {error}") from error
        speech = Speech(np.ascontiguousarray(samples, np.float32), int(rate_hz))
        named = _letters("".join(text for text, _ in answer.sentences))
        if named != _letters(u.text):
            detail = f"the service named {len(named)} of {len(_letters(u.text))} letters"
            raise SpeechError(self.name, "truncated", detail)
        end_s = max(end for _, end in answer.sentences)
        if speech.duration_s < end_s - _SHORTER_S:
            detail = f"{speech.duration_s:.2f} s of sound, the last sentence ends at {end_s:.2f} s"
            raise SpeechError(self.name, "truncated", detail)
        return speech


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text).casefold()
