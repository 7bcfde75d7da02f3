"""Kokoro: what is missing is named; with the model at hand, sounds repeat.

`OMNI_KOKORO` names a folder with `model.onnx` and `voices/`; `docs/sdvi.md` says how to get them.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from omni_diffusion.errors import RecipeError, WeightsError
from omni_diffusion.sdvi.engines import KokoroRecipe, Speech, SpeechError, Utterance, open_engine
from omni_diffusion.sdvi.engines.kokoro import read_voices

FOLDER = os.environ.get("OMNI_KOKORO", "")
TEXTS = ("What is shown in the picture?", "Yes, there are two hundred and five of them.")


def voice_file(folder: Path, name: str, size: int = 510 * 256) -> None:
    np.arange(size, dtype="<f4").tofile(folder / f"{name}.bin")


def test_english_voices_are_read_from_a_folder_or_an_archive(tmp_path: Path) -> None:
    for name in ("af_heart", "bm_lewis", "zf_xiaobei"):
        voice_file(tmp_path, name)
    voices = read_voices(tmp_path)
    assert sorted(voices) == ["af_heart", "bm_lewis"]
    assert voices["af_heart"].shape == (510, 1, 256)
    archive = tmp_path / "voices.npz"
    np.savez(archive, **voices)  # type: ignore[arg-type]
    assert np.array_equal(read_voices(archive)["bm_lewis"], voices["bm_lewis"])


def test_voices_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no English voice"):
        read_voices(tmp_path)
    with pytest.raises(WeightsError, match="nowhere"):
        read_voices(tmp_path / "nowhere")
    voice_file(tmp_path, "af_heart", size=100)
    with pytest.raises(WeightsError, match="af_heart has 100 numbers"):
        read_voices(tmp_path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """The package where it is not installed, else the model."""
    recipe = KokoroRecipe(model=str(tmp_path / "none.onnx"), voices=str(tmp_path))
    with pytest.raises((RecipeError, WeightsError), match=r"none\.onnx|kokoro"):
        open_engine(recipe)


@pytest.mark.skipif(not FOLDER, reason="OMNI_KOKORO names no model")
def test_sounds_repeat_in_any_order() -> None:
    engine = open_engine(KokoroRecipe(model=f"{FOLDER}/model.onnx", voices=f"{FOLDER}/voices"))
    assert len(engine.voices) == 28
    asked = [Utterance(t, v, r) for t in TEXTS for v, r in (("af_heart", 1.0), ("bm_lewis", 1.1))]
    first = engine.synthesize_many(asked)
    again = engine.synthesize_many(asked[::-1])[::-1]
    for one, other in zip(first, again, strict=True):
        assert isinstance(one, Speech)
        assert isinstance(other, Speech)
        assert np.array_equal(one.samples, other.samples)
        assert one.sample_rate_hz == 24_000
    for utterance in (Utterance("", "af_heart"), Utterance("Hello.", "en-GB@1.00")):
        (refused,) = engine.synthesize_many([utterance])
        assert isinstance(refused, SpeechError)
