"""Kokoro-82M on ONNX Runtime: natural local voices, one engine a process, one core each.

Weights and voices are Apache-2.0. The way from letters to sounds goes through `phonemizer` and
espeak-ng, both GPL-3, so the package is an extra that nobody gets unasked. espeak-ng is global to
a process and not safe for threads: scale by processes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from omni_diffusion.errors import RecipeError, WeightsError
from omni_diffusion.recipe import Recipe
from omni_diffusion.sdvi.engines.engine import (
    Speech,
    SpeechError,
    Utterance,
    Voice,
    check_utterance,
    one_by_one,
)

_STYLE_ROWS, _STYLE_SIZE = 510, 256
_ACCENTS = {"a": "en-US", "b": "en-GB"}
_GENDERS = {"f": "female", "m": "male"}


class KokoroRecipe(Recipe):
    """Where Kokoro's model and voices are."""

    kind: Literal["kokoro"] = "kokoro"
    model: str
    #: An ONNX file of Kokoro-82M.
    voices: str
    #: A folder with a file `NAME.bin` for each voice, or one archive as kokoro-onnx has it.
    threads: int = Field(default=1, ge=1)
    #: Of ONNX Runtime; another number may change last bits.


class KokoroEngine:
    """See the module. Voices are the English ones, named as published (`af_heart`, `bm_lewis`).

    Raises:
        RecipeError: the package is not installed.
        WeightsError: model or voices are not there, or not of the expected form.
    """

    name = "kokoro"

    def __init__(self, recipe: KokoroRecipe) -> None:
        try:
            import onnxruntime
            from kokoro_onnx import Kokoro
        except ImportError as error:
            hint = "pip install 'omni-diffusion[kokoro]' (GPL-3 dependencies)"
            raise RecipeError(f"engine kokoro: {error}; {hint}") from None
        model = _read_model(Path(recipe.model))
        styles = read_voices(Path(recipe.voices))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = recipe.threads, 1
        with tempfile.TemporaryDirectory() as folder:
            # The package takes names of files only.
            onnx, archive = Path(folder, "model.onnx"), Path(folder, "voices.npz")
            onnx.write_bytes(model)
            np.savez(archive, **dict[str, Any](styles))
            try:
                session = onnxruntime.InferenceSession(
                    str(onnx), options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # its errors share no base but this one
                reason = f"not a model for ONNX Runtime: {error}"
                raise WeightsError(f"{recipe.model}: {reason}") from error
            self._kokoro: Any = Kokoro.from_session(session, str(archive))
        self._styles = styles
        self.voices = tuple(
            Voice(name, _GENDERS.get(name[1:2], "unknown"), _ACCENTS[name[0]])
            for name in sorted(styles)
        )
        digest = hashlib.sha256(model)
        for name in sorted(styles):
            digest.update(name.encode() + styles[name].tobytes())
        versions = [importlib.metadata.version(p) for p in ("kokoro-onnx", "espeakng-loader")]
        self.fingerprint = f"kokoro-{'-'.join(versions)}-{digest.hexdigest()[:16]}"
        self.fingerprint += f"-t{recipe.threads}"

    def synthesize(self, text: str, voice: str, rate: float = 1.0) -> Speech:
        """Speak one text; see `engine.Engine`."""
        check_utterance(self, Utterance(text, voice, rate))
        language = "en-gb" if voice.startswith("b") else "en-us"
        try:
            samples, sample_rate_hz = self._kokoro.create(
                text, voice=self._styles[voice], speed=rate, lang=language
            )
        except (ValueError, RuntimeError, IndexError) as error:
            raise SpeechError(self.name, "engine", f"{error} ({text[:40]!r})") from error
        return Speech(np.asarray(samples, np.float32).ravel(), int(sample_rate_hz))

    def synthesize_many(self, utterances: Sequence[Utterance]) -> list[Speech | SpeechError]:
        """Speak many texts, one after the other: the model has no batches."""
        return one_by_one(self, utterances)


def _read_model(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}") from None


def read_voices(path: Path) -> Mapping[str, NDArray[np.float32]]:
    """English voices by name, each float32 `[510, 1, 256]`.

    Args:
        path: a folder of little-endian float32 files `NAME.bin`, or a NumPy archive.

    Raises:
        WeightsError: they cannot be read, are of another size, or none is English.
    """
    try:
        if path.is_dir():
            found = {f.stem: np.fromfile(f, "<f4") for f in sorted(path.glob("*.bin"))}
        else:
            with np.load(path) as archive:
                found = {name: np.asarray(archive[name], np.float32) for name in archive.files}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as voices: {error}") from None
    styles = {}
    for name, values in found.items():
        if name[:1] not in _ACCENTS:
            continue
        if values.size != _STYLE_ROWS * _STYLE_SIZE:
            raise WeightsError(f"{path}: voice {name} has {values.size} numbers, not 510 x 256")
        styles[name] = values.reshape(_STYLE_ROWS, 1, _STYLE_SIZE)
    if not styles:
        raise WeightsError(f"{path}: holds no English voice (names that begin with a or b)")
    return styles
