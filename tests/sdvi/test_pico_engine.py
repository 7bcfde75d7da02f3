"""The same utterance is the same sound, whatever was spoken before it."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from omni_diffusion.sdvi.engines import PicoRecipe, Speech, SpeechError, Utterance, open_engine

TEXTS = (
    "What is shown in the picture?",
    "A red apple on a light blue background.",
    "Yes, there are two hundred and five of them.",
    "No.",
)


@pytest.fixture(scope="module")
def utterances() -> list[Utterance]:
    return [
        Utterance(text, voice, rate)
        for text in TEXTS
        for voice, rate in (("en-US@1.00", 1.0), ("en-GB@0.85", 1.07))
    ]


def _sounds(utterances: list[Utterance]) -> dict[Utterance, bytes]:
    made = open_engine(PicoRecipe()).synthesize_many(utterances)
    assert all(isinstance(speech, Speech) for speech in made)
    return {u: s.samples.tobytes() for u, s in zip(utterances, made, strict=True)}  # type: ignore[union-attr]


def test_any_order_gives_the_same_samples(utterances: list[Utterance]) -> None:
    """Pico itself gives another sound nearly every time: it reads memory it never wrote."""
    first = _sounds(utterances)
    assert len(set(first.values())) == len(first)
    for seed in range(3):
        shuffled = random.Random(seed).sample(utterances * 2, 2 * len(utterances))
        junk = [np.full(1 << 18, seed, np.float64) for _ in range(8)]
        assert _sounds(shuffled) == first
        del junk


def test_a_fresh_process_gives_the_same_samples(utterances: list[Utterance]) -> None:
    """What one worker makes, any other worker makes too."""
    import hashlib

    program = (
        "import hashlib, sys; from omni_diffusion.sdvi.engines import *\n"
        "speech = open_engine(PicoRecipe()).synthesize(sys.argv[1], sys.argv[2], "
        "float(sys.argv[3]))\n"
        "print(hashlib.sha256(speech.samples.tobytes()).hexdigest())"
    )
    here = _sounds(utterances)
    u = utterances[-3]
    command = [sys.executable, "-c", program, u.text, u.voice, str(u.rate)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(here[u]).hexdigest()


def test_sounds_are_whole_and_unclipped() -> None:
    engine = open_engine(PicoRecipe())
    slow, fast = (engine.synthesize(TEXTS[1], "en-US@1.00", rate) for rate in (0.9, 1.1))
    assert slow.sample_rate_hz == 16_000
    assert slow.samples.dtype == np.float32
    assert slow.duration_s > fast.duration_s
    loudest = max(
        float(np.abs(engine.synthesize(TEXTS[1], voice.name).samples).max())
        for voice in engine.voices
    )
    assert 0.3 < loudest < 0.9


@pytest.mark.parametrize(
    ("text", "voice", "rate", "reason"),
    [
        ("", "en-US@1.00", 1.0, "text"),
        (" ... ", "en-US@1.00", 1.0, "text"),
        ("word " * 500, "en-US@1.00", 1.0, "text"),
        ("<volume level='0'>hush</volume>", "en-US@1.00", 1.0, "text"),
        ("bell \x07", "en-US@1.00", 1.0, "text"),
        ("Hello.", "en-US-EmmaNeural", 1.0, "voice"),
        ("Hello.", "en-US@1.00", 3.0, "rate"),
        ("Hello.", "en-US@1.00", float("nan"), "rate"),
        ("Hello.", "en-US@1.00", 1.001, "rate"),
    ],
)
def test_bad_utterances_are_refused_and_hurt_no_others(
    text: str, voice: str, rate: float, reason: str
) -> None:
    good = Utterance("Hello.", "en-US@1.00")
    engine = open_engine(PicoRecipe())
    before, refused, after = engine.synthesize_many([good, Utterance(text, voice, rate), good])
    assert isinstance(refused, SpeechError)
    assert refused.reason == reason
    assert isinstance(before, Speech)
    assert isinstance(after, Speech)
    assert np.array_equal(before.samples, after.samples)
