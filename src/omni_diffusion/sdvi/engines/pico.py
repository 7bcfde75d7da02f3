"""SVOX Pico (package `py-nanotts`, Apache-2.0): small, fast, local; the engine of tests and demos.

Pico reads memory that it has not written: it builds each engine in 2.5 MB fresh from `malloc`, and
what lay there before changes the last bits of the sound, now and then a pause. In a new process
that memory is zero. So the C library is told to hand out zeroed memory for the time of a call,
which makes every call the first one: sounds are equal to those of a fresh process, for about a
millisecond a call instead of a fork (`docs/sdvi.md` has the figures).
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np

from omni_diffusion.errors import RecipeError
from omni_diffusion.recipe import Recipe
from omni_diffusion.sdvi.engines.engine import (
    Speech,
    SpeechError,
    Utterance,
    Voice,
    check_utterance,
    one_by_one,
)

SAMPLE_RATE_HZ = 16_000

_PITCHES = (1.0, 0.75, 0.85, 0.95, 1.1, 1.2)
_ACCENTS = ("en-GB", "en-US")

_VOLUME = 0.4
"""At Pico's own volume a hundredth of the samples is clipped; at 0.4 the loudest peak is 0.72."""

_M_PERTURB = -6
"""`mallopt(3)`: fill what `malloc` hands out with the complement of a byte, here of 0xff."""

_allocator = threading.Lock()


class PicoRecipe(Recipe):
    """SVOX Pico has nothing to set."""

    kind: Literal["pico"] = "pico"


class PicoEngine:
    """See the module. Voices are two accents at six pitches, named like `en-US@0.95`.

    Raises:
        RecipeError: the package is not installed, or the system's C library is not GNU's.
    """

    name = "pico"

    def __init__(self) -> None:
        try:
            from py_nanotts import NanoTTS
        except ImportError as error:
            hint = "pip install 'omni-diffusion[sdvi]'"
            raise RecipeError(f"engine pico: {error}; {hint}") from None
        self._speak = NanoTTS().speak
        self._libc = _gnu_libc()
        self.fingerprint = f"pico-{importlib.metadata.version('py-nanotts')}-v{_VOLUME:g}"
        self._parts = {f"{a}@{pitch:.2f}": (a, pitch) for a in _ACCENTS for pitch in _PITCHES}
        self.voices = tuple(Voice(name, "female", part[0]) for name, part in self._parts.items())

    def synthesize(self, text: str, voice: str, rate: float = 1.0) -> Speech:
        """Speak one text; see `engine.Engine`."""
        check_utterance(self, Utterance(text, voice, rate))
        accent, pitch = self._parts[voice]
        try:
            with self._zeroed_memory():
                pcm = self._speak(text, voice=accent, speed=rate, pitch=pitch, volume=_VOLUME)
        except (RuntimeError, ValueError) as error:
            raise SpeechError(self.name, "engine", f"{error} ({text[:40]!r})") from error
        samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768.0
        if not samples.any():
            raise SpeechError(self.name, "no audio", f"silence for {text[:40]!r}")
        return Speech(samples, SAMPLE_RATE_HZ)

    def synthesize_many(self, utterances: Sequence[Utterance]) -> list[Speech | SpeechError]:
        """Speak many texts, one after the other: Pico uses one core."""
        return one_by_one(self, utterances)

    @contextmanager
    def _zeroed_memory(self) -> Iterator[None]:
        with _allocator:  # the setting is the whole process's
            self._libc.mallopt(_M_PERTURB, 0xFF)
            try:
                yield
            finally:
                self._libc.mallopt(_M_PERTURB, 0)


def _gnu_libc() -> Any:
    """The C library, if it zeroes memory on demand."""
    # PyDLL keeps the interpreter's lock, so no other thread allocates between two calls.
    libc = ctypes.PyDLL(None)
    try:
        libc.mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
        libc.free.argtypes = (ctypes.c_void_p,)
        libc.mallopt(_M_PERTURB, 0xFF)
        try:
            zeroed = all(_fresh_block_is_zero(libc) for _ in range(2))
        finally:
            libc.mallopt(_M_PERTURB, 0)
    except AttributeError:
        zeroed = False
    if not zeroed:
        raise RecipeError(
            "engine pico: its sounds repeat only with GNU libc's own malloc (Linux, no jemalloc or "
            "tcmalloc preloaded); use another engine here"
        )
    return libc


def _fresh_block_is_zero(libc: Any) -> bool:
    """Whether a new block is zero although a block of its size has just been dirty."""
    size = 1 << 16
    block = libc.malloc(size)
    zero = not any(ctypes.string_at(block, size))
    ctypes.memset(block, 0xAA, size)
    libc.free(block)
    return zero
