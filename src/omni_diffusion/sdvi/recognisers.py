"""Listening back: what a speech recogniser hears in a sound.

Whisper through `faster-whisper` (CTranslate2, MIT), decoded greedily at temperature 0, so the same
sound is always heard the same way. Sounds and texts are compared after OpenAI's normalization of
English, which writes numbers, contractions and British spellings in one way on both sides.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from pydantic import Field

from omni_diffusion.errors import RecipeError, WeightsError
from omni_diffusion.recipe import Recipe
from omni_diffusion.sdvi.engines.engine import Speech

SAMPLE_RATE_HZ = 16_000

_HINT = "pip install 'omni-diffusion[asr]'"


class RecogniserRecipe(Recipe):
    """Which Whisper listens."""

    model: str
    #: Folder of a model in CTranslate2's form, or a name that faster-whisper knows (`base.en`).
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    compute_type: str = "int8"
    #: Arithmetic, e.g. `int8`, `float16`, `float32`.
    threads: int = Field(default=1, ge=1)
    download: bool = False
    #: Whether a model that is known by name may be fetched from the hub.


class Recogniser(Protocol):
    """Turns sounds into words; what it hears depends on the sound and on `fingerprint` only."""

    fingerprint: str

    def transcribe_many(self, sounds: Sequence[Speech]) -> list[str]:
        """What is said in each sound, in their order; "" for a sound without speech."""
        ...


class FasterWhisper:
    """See the module.

    Raises:
        RecipeError: the package is not installed.
        WeightsError: the model is not there.
    """

    def __init__(self, recipe: RecogniserRecipe) -> None:
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise RecipeError(f"recogniser: {error}; {_HINT}") from None
        try:
            self._model: Any = WhisperModel(
                recipe.model,
                device=recipe.device,
                compute_type=recipe.compute_type,
                cpu_threads=recipe.threads,
                local_files_only=not recipe.download,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise WeightsError(
                f"recogniser {recipe.model}: {error}; give the folder of a CTranslate2 model, or "
                "set download: true where the hub can be reached"
            ) from None
        version = importlib.metadata.version("faster-whisper")
        self.fingerprint = f"faster-whisper-{version}-{_digest(recipe.model)}-{recipe.compute_type}"

    def transcribe_many(self, sounds: Sequence[Speech]) -> list[str]:
        """What is said in each sound; see `Recogniser`."""
        return [self._transcribe(sound) for sound in sounds]

    def _transcribe(self, sound: Speech) -> str:
        import soxr

        samples = soxr.resample(sound.samples, sound.sample_rate_hz, SAMPLE_RATE_HZ)
        segments, _ = self._model.transcribe(
            np.asarray(samples, np.float32),
            language="en",
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
        )
        return " ".join(segment.text.strip() for segment in segments)


class Errors(NamedTuple):
    """How far what was heard is from what was said: 0 is the same, 1 or more is nothing alike."""

    wer: float
    cer: float
    words: int
    #: Of the text, after normalization.


def compare(said: str, heard: str) -> Errors:
    """Word and character error rate after the same normalization of both texts.

    Characters are compared without spaces: "light house" and "lighthouse" sound the same.

    Raises:
        RecipeError: the packages for it are not installed.
    """
    try:
        import jiwer
    except ImportError as error:
        raise RecipeError(f"recogniser: {error}; {_HINT}") from None
    normalize = _normalizer()
    reference, hypothesis = normalize(said), normalize(heard)
    if not reference:
        return Errors(wer=float(bool(hypothesis)), cer=float(bool(hypothesis)), words=0)
    wer = jiwer.wer(reference, hypothesis)
    cer = jiwer.cer(reference.replace(" ", ""), hypothesis.replace(" ", ""))
    # A word cut in two or two made one are errors of spelling, not of speech.
    return Errors(wer=float(wer if cer else 0.0), cer=float(cer), words=len(reference.split()))


@cache
def _normalizer() -> Any:
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise RecipeError(f"recogniser: {error}; {_HINT}") from None
    return EnglishTextNormalizer()


def _digest(model: str) -> str:
    """Of the weights where they lie in a folder of ours, else the name."""
    file = Path(model, "model.bin")
    if not file.is_file():
        return model.replace("/", "--")
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()[:16]
