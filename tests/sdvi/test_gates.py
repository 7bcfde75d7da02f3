"""Damage is seen in the sound, or heard by a recogniser; good speech passes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from omni_diffusion.errors import MediaError
from omni_diffusion.sdvi.engines import PicoRecipe, Speech, open_engine
from omni_diffusion.sdvi.gates import Decision, GateRecipe, judge
from omni_diffusion.sdvi.recognisers import compare
from omni_diffusion.sdvi.sound import Clip, finish, make_clip, measure

TEXT = "A red apple lies on a light blue table beside two bottles."
RATE_HZ = 16_000


@pytest.fixture(scope="module")
def speech() -> Speech:
    return open_engine(PicoRecipe()).synthesize(TEXT, "en-GB@1.00")


def changed(speech: Speech, change: Callable[[np.ndarray], np.ndarray]) -> Speech:
    samples = np.asarray(change(speech.samples.copy()), np.float32)
    return Speech(samples, speech.sample_rate_hz)


def noise(samples: np.ndarray) -> np.ndarray:
    level = float(np.sqrt((samples**2).mean()))
    return np.random.default_rng(0).standard_normal(len(samples)) * level


def test_good_speech_is_kept(speech: Speech) -> None:
    verdict = judge(measure(speech), TEXT, TEXT.lower(), GateRecipe())
    assert verdict.decision is Decision.KEEP
    assert verdict.reasons == ()
    assert verdict.values["wer"] == 0
    assert 2 < verdict.values["words_per_s"] < 5
    assert verdict.values["duration_s"] == speech.duration_s


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda x: x[: len(x) // 2], "end_db"),
        (lambda x: np.clip(x * 20, -1, 1), "clipped_share"),
        (lambda x: x * 1e-3, "rms_dbfs"),
        (lambda x: x + noise(x), "noise_db"),
        (lambda x: np.concatenate([np.zeros(2 * RATE_HZ), x]), "end_silence_s"),
        (lambda x: np.concatenate([x[:20_000], np.zeros(2 * RATE_HZ), x[20_000:]]), "silence_s"),
        (lambda x: np.repeat(x, 4), "words_per_s"),
        (lambda x: x[::3], "words_per_s"),
        (lambda x: np.tile(x, 20), "duration_s"),
        (lambda x: x[8_000:10_000], "duration_s"),
        (np.zeros_like, "rms_dbfs"),
    ],
)
def test_damaged_sound_is_not_kept(
    speech: Speech, damage: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    """Without a recogniser, and with one that would hear nothing wrong."""
    for heard in (None, TEXT):
        verdict = judge(measure(changed(speech, damage)), TEXT, heard, GateRecipe())
        assert verdict.decision is not Decision.KEEP
        assert reason in verdict.reasons
        assert reason in verdict.detail


@pytest.mark.parametrize(
    ("heard", "decision"),
    [
        (TEXT, Decision.KEEP),
        ("A red apples lies on a light blue table beside to bottles.", Decision.KEEP),
        ("a RED apple lies on a light-blue table, beside 2 bottles", Decision.KEEP),
        ("A red apple lies on a light blue table beside two bottle.", Decision.KEEP),
        ("A red apple lies on a light blue cable beneath new bottles.", Decision.RETRY),
        ("A red apple lies on a light blue", Decision.RETRY),
        ("Thank you for watching.", Decision.REJECT),
        ("", Decision.REJECT),
    ],
)
def test_what_was_heard_decides(speech: Speech, heard: str, decision: Decision) -> None:
    verdict = judge(measure(speech), TEXT, heard, GateRecipe())
    assert verdict.decision is decision
    assert verdict.reasons == (() if decision is Decision.KEEP else ("wer",))


def test_short_texts_are_judged_by_characters(speech: Speech) -> None:
    """One word in two is a rate of 50 %, whether a letter is wrong or all of them."""
    sound = measure(speech)
    close, far = (judge(sound, "Rectangles.", heard, GateRecipe()) for heard in ("Rectangle", "No"))
    assert close.decision is Decision.KEEP
    assert close.values["wer"] == far.values["wer"] == 1
    assert far.reasons == ("cer",)


def test_thresholds_come_from_the_recipe(speech: Speech) -> None:
    strict = GateRecipe(duration_s=(0.3, 1.0), wer_keep=0.0)
    heard = TEXT.replace("two bottles", "a few brothers of mine")
    verdict = judge(measure(speech), TEXT, heard, strict)
    assert set(verdict.reasons) == {"duration_s", "wer"}


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("It costs three dollars and fifty cents.", "it costs $3.50"),
        ("What colour is it?", "What color is it?"),
        ("It's twenty percent.", "it is 20%"),
        ("A light house.", "a lighthouse"),
        ("In nineteen ninety-eight.", "In 1998."),
    ],
)
def test_spelling_is_no_error(said: str, heard: str) -> None:
    assert compare(said, heard)[:2] == (0.0, 0.0)


def test_finished_speech_has_short_ends_and_an_even_level(speech: Speech) -> None:
    for gain in (0.05, 1.0, 1.3):
        sound = measure(finish(changed(speech, lambda x, g=gain: x * g)))
        assert sound.leading_s <= 0.11
        assert sound.trailing_s <= 0.11
        assert abs(sound.rms_dbfs + 23) < 0.3
        assert sound.peak <= 0.9501


def test_a_clip_is_the_same_bytes_again_and_keeps_what_was_measured(speech: Speech) -> None:
    clip = make_clip(speech)
    assert make_clip(changed(speech, lambda x: x)) == clip
    assert Clip.from_bytes(clip.to_bytes()) == clip
    assert clip.measures == measure(speech)
    decoded = clip.decode()
    assert decoded.duration_s == clip.duration_s
    assert np.abs(decoded.samples - finish(speech).samples).max() <= 1 / 32768


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0, np.float32), "empty"),
        (np.full(100, np.nan, np.float32), "finite"),
        (np.zeros((2, 100), np.float32), "one channel"),
        (np.zeros(100, np.float64), "float64"),
    ],
)
def test_what_is_no_sound_is_refused(samples: np.ndarray, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        make_clip(Speech(samples, RATE_HZ))


def test_sounds_of_any_length_can_be_measured() -> None:
    for length in (1, 2, 159, 160, 161, 1_000):
        samples = np.linspace(-0.5, 0.5, length, dtype=np.float32)
        sound = measure(Speech(samples, RATE_HZ))
        assert np.isfinite(sound.rms_dbfs)
        make_clip(Speech(samples, RATE_HZ))
