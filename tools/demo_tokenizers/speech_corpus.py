"""Speech to train the demo tokenizer on: SVOX Pico reading sentences made from word lists.

Everything comes from packages: `pip install py-nanotts==0.1.1 emoji==2.16.0 easy-vqa==1.0`. The
sentences are emoji names put into templates, easy-vqa's questions, and prose out of Python's own
manual; emoji names whose hash falls into one tenth are spoken only in the held-out part.

What Pico makes of a sentence depends on what the same process spoke before (about the last bits,
now and then a pause), so a run is repeatable as a whole, in a fresh process, but not by sentence.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000

VOICES = ("en-US", "en-GB")
_TEMPLATES = (
    "{Name}.",
    "A picture of {name}.",
    "Please draw {name} on a {colour} background.",
    "Generate an image based on the provided text description. {Name}.",
    "I can see {number} of them, and they are {colour}.",
    "What is next to {name}? It looks like {other}.",
    "Is this {name} or {other}?",
    "Yes, the {colour} thing is {name}.",
    "No, I can see {other}, but not {name}.",
    "A flat drawing of {name} with black outlines.",
)
_COLOURS = ("red", "green", "blue", "yellow", "black", "white", "orange", "purple", "brown", "pink")
_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twenty")
_HELD_OUT_SHARE = 10
_GAP_S = (0.05, 0.5)


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _names(held_out: bool) -> list[str]:
    """Emoji names of one part: plain words, without skin tones."""
    import emoji

    entries = (
        entry["en"].strip(":").replace("_", " ").lower() for entry in emoji.EMOJI_DATA.values()
    )
    plain = {name for name in entries if re.fullmatch(r"[a-z ]{3,28}", name) and "skin" not in name}
    in_held_out = {name: zlib.crc32(name.encode()) % _HELD_OUT_SHARE == 0 for name in plain}
    return sorted(name for name in plain if in_held_out[name] == held_out)


def _prose(held_out: bool) -> list[str]:
    """Sentences of Python's language manual that are plain words."""
    from pydoc_data.topics import topics

    text = re.sub(r"\s+", " ", " ".join(topics[key] for key in sorted(topics)))
    found = sorted(set(re.findall(r"(?<=\. )[A-Z][a-z]+(?: [a-z]+,?){4,24}\.", text)))
    return [s for s in found if (zlib.crc32(s.encode()) % _HELD_OUT_SHARE == 0) == held_out]


def sentences(held_out: bool, rng: random.Random) -> Callable[[], str]:
    """A source of sentences; the two parts share templates but no emoji name and no prose."""
    from easy_vqa import get_train_questions

    names, prose = _names(held_out), _prose(held_out)
    questions = sorted(set(get_train_questions()[0]))

    def draw() -> str:
        kind = rng.random()
        if kind < 0.15:
            return str(rng.choice(questions)).capitalize()
        if kind < 0.45:
            return rng.choice(prose)
        name, other = _with_article(rng.choice(names)), _with_article(rng.choice(names))
        return rng.choice(_TEMPLATES).format(
            name=name,
            Name=name.capitalize(),
            other=other,
            colour=rng.choice(_COLOURS),
            number=rng.choice(_NUMBERS),
        )

    return draw


def paragraphs(n: int, duration_s: float, held_out: bool, seed: int) -> list[NDArray[np.float32]]:
    """Stretches of speech by one voice each, at varied speed, pitch, level and noise floor.

    Args:
        n: how many.
        duration_s: length of each; the last sentence is cut there.
        held_out: which part of the texts.
        seed: equal seeds give equal samples.

    Returns:
        float32 `[duration_s * 16000]` each.
    """
    from py_nanotts import NanoTTS

    rng, noise = random.Random(seed), np.random.default_rng(seed)
    draw, voice_of = sentences(held_out, rng), NanoTTS()
    length = int(duration_s * SAMPLE_RATE_HZ)
    made = []
    for _ in range(n):
        voice, speed, pitch = rng.choice(VOICES), rng.uniform(0.8, 1.3), rng.uniform(0.75, 1.3)
        pieces: list[NDArray[np.float32]] = []
        while sum(map(len, pieces)) < length:
            pcm = voice_of.speak(draw(), voice=voice, speed=speed, pitch=pitch, volume=1.0)
            pieces.append(np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768.0)
            pieces.append(np.zeros(int(rng.uniform(*_GAP_S) * SAMPLE_RATE_HZ), np.float32))
        speech = np.concatenate(pieces)[:length]
        speech *= rng.uniform(0.15, 0.9) / max(float(np.abs(speech).max()), 1e-3)
        if rng.random() < 0.3:
            level = 10.0 ** rng.uniform(-3.5, -2.5)
            speech = speech + level * noise.standard_normal(length).astype(np.float32)
        made.append(speech.astype(np.float32))
    return made
