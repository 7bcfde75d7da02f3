"""The gates on real speech and a real recogniser: damage is refused, good speech is kept.

Runs where `OMNI_ASR_MODEL` names a Whisper model in CTranslate2's form (a folder, or a name that
faster-whisper finds without a network). `docs/sdvi.md` says how to get one. `OMNI_GATE_FIGURES`
may name a file that the figures are written to.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.sdvi.engines import Engine, PicoRecipe, Speech, Utterance, open_engine
from omni_diffusion.sdvi.produce import Made, Producer, SynthesisRecipe
from omni_diffusion.sdvi.recognisers import FasterWhisper, Recogniser, RecogniserRecipe
from omni_diffusion.sdvi.sound import measure
from omni_diffusion.sdvi.speech_cache import SpeechCache
from speaking import Damaging, pictured

MODEL = os.environ.get("OMNI_ASR_MODEL", "")
FIGURES = os.environ.get("OMNI_GATE_FIGURES", "")

pytestmark = pytest.mark.skipif(not MODEL, reason="OMNI_ASR_MODEL names no Whisper model")

CAPTIONS = (
    "A brown dog runs across a green field.",
    "Two children are playing football in the park.",
    "A woman in a red coat is waiting for the bus.",
    "There is a cup of coffee on the wooden table.",
    "An old man is reading a newspaper on a bench.",
    "A white cat sleeps on a blue sofa.",
    "Three boats are lying on the beach at sunset.",
    "A train is crossing a bridge over the river.",
    "The kitchen has a large window and white walls.",
    "A boy is holding a yellow balloon in his hand.",
    "Snow covers the roofs of the small village.",
    "A chef is cutting vegetables in a restaurant.",
    "Several people are walking down a busy street.",
    "A black bicycle is leaning against a brick wall.",
    "The mountain is reflected in the clear lake.",
    "A girl is drawing a house with a pencil.",
    "Fresh bread is lying in a basket on the counter.",
    "A large ship is leaving the harbour in the morning.",
    "Two horses are standing behind a wooden fence.",
    "A man is playing the guitar in front of a fire.",
    "The airplane is flying above the clouds.",
    "A bowl of soup stands next to a glass of water.",
    "The street lights are shining on the wet road.",
    "A farmer is driving his tractor through the field.",
    "Yellow flowers are growing in the garden.",
    "A family is having a picnic under a tree.",
    "The library is full of old books.",
    "A police car is parked in front of the school.",
    "An orange butterfly is sitting on a leaf.",
    "The waiter is carrying four plates at once.",
    "A lighthouse stands on a rock in the sea.",
    "Many colourful umbrellas are hanging over the street.",
    "A doctor is talking to a patient in the hospital.",
    "The baby is sleeping in a small white bed.",
    "A clock on the tower shows half past nine.",
    "A squirrel is eating a nut on the branch.",
    "The soccer player is kicking the ball into the net.",
    "A pair of shoes is lying beside the door.",
    "Some tourists are taking photos of the castle.",
    "A bird is building a nest in the tall tree.",
)

Damage = Callable[[Speech, Utterance], np.ndarray]


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return FasterWhisper(RecogniserRecipe(model=MODEL))


@pytest.fixture(scope="module")
def pico() -> Engine:
    return open_engine(PicoRecipe())


@pytest.fixture(scope="module")
def figures(recogniser: Recogniser, pico: Engine) -> Iterator[dict[str, Any]]:
    """What became of good and damaged speech; written down where somebody asks for it."""
    found: dict[str, Any] = {"engine": pico.fingerprint, "recogniser": recogniser.fingerprint}
    yield found
    if FIGURES:
        Path(FIGURES).write_text(json.dumps({"figures": found}, indent=2) + "\n")


def judged(
    engine: Engine, recogniser: Recogniser, count: int, name: str, figures: dict[str, Any]
) -> list[Made | Reject]:
    recipe, began = SynthesisRecipe(task="speech_to_image"), time.process_time()
    producer = Producer(recipe, engine, SpeechCache(None), recogniser)
    made = producer.produce([(f"k{i}", pictured(c)) for i, c in enumerate(CAPTIONS[:count])])
    kept = [r.record.quality["attempts"] for r in made if isinstance(r, Made)]
    figures[name] = {
        "utterances": count,
        "kept": len(kept),
        "kept_at_once": kept.count(1),
        "refused_for": sorted(r.reason for r in made if isinstance(r, Reject)),
        "cpu_s_per_utterance": round((time.process_time() - began) / count, 2),
    }
    return made


def cut_off(speech: Speech, utterance: Utterance) -> np.ndarray:
    """Ends in the middle of speech, between a third and two thirds of the way."""
    sound = measure(speech)
    share = 1 / 3 + len(utterance.text) % 10 / 30
    end_s = sound.leading_s + share * sound.spoken_s
    return speech.samples[: int(end_s * speech.sample_rate_hz)]


def faded_out(speech: Speech, utterance: Utterance) -> np.ndarray:
    """The same with a soft end and silence, so that only the words betray it."""
    samples = cut_off(speech, utterance).copy()
    samples[-800:] *= np.linspace(1, 0, 800, dtype=np.float32)
    return np.concatenate([samples, np.zeros(8_000, np.float32)])


def noisy(speech: Speech, _: Utterance) -> np.ndarray:
    """White noise, louder than the speech."""
    level = 1.2 * float(np.sqrt((speech.samples**2).mean()))
    noise = np.random.default_rng(7).standard_normal(len(speech.samples)).astype(np.float32)
    return speech.samples + level * noise


def test_good_speech_is_kept(pico: Engine, recogniser: Recogniser, figures: dict[str, Any]) -> None:
    results = judged(pico, recogniser, len(CAPTIONS), "good", figures)
    kept = [r for r in results if isinstance(r, Made)]
    assert len(kept) >= 0.95 * len(CAPTIONS), [r for r in results if isinstance(r, Reject)]


@pytest.mark.parametrize("damage", [cut_off, faded_out, noisy])
def test_damaged_speech_is_refused(
    pico: Engine, recogniser: Recogniser, figures: dict[str, Any], damage: Damage
) -> None:
    """Whatever voice is tried: all of them are damaged."""

    def damaged(speech: Speech, utterance: Utterance) -> Speech:
        return Speech(damage(speech, utterance).astype(np.float32), speech.sample_rate_hz)

    results = judged(Damaging(pico, damaged), recogniser, 20, damage.__name__, figures)
    assert [r for r in results if isinstance(r, Made)] == []
    assert {r.stage for r in results if isinstance(r, Reject)} == {"gate"}


def test_another_text_is_refused(
    pico: Engine, recogniser: Recogniser, figures: dict[str, Any]
) -> None:
    def another(_: Speech, utterance: Utterance) -> Speech:
        wrong = CAPTIONS[-1 - sum(map(len, utterance.text.split())) % 20]
        return pico.synthesize(wrong, utterance.voice, utterance.rate)

    results = judged(Damaging(pico, another), recogniser, 15, "another_text", figures)
    assert [r for r in results if isinstance(r, Made)] == []
