"""edge-tts, unmodified, against a server that speaks its protocol over TLS, and misbehaves.

Whatever the server does, every utterance comes back in its place: whole, or with its reason.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import certifi
import edge_tts.communicate
import numpy as np
import pytest
from edge_tts.drm import DRM

from edge_server import EdgeServer
from omni_diffusion.sdvi.engines import (
    EdgeRecipe,
    Engine,
    Speech,
    SpeechError,
    Utterance,
    open_engine,
)

FAULTS = {
    "drop": "truncated",
    "truncate": "truncated",
    "half-sentences": "truncated",
    "no-audio": "no audio",
    "unknown": "protocol",
    "garbage": "protocol",
}
"""What the server does, and what the engine calls it."""

TEXTS = tuple(
    f"{noun} {number}. It is {colour}."
    for noun, colour in (("Apples", "red"), ("Boats", "blue"))
    for number in ("one", "two", "three", "four")
)
VOICE = "en-US-EmmaNeural"


@pytest.fixture(scope="module")
def running() -> Iterator[EdgeServer]:
    server = EdgeServer()
    yield server
    server.close()


@pytest.fixture
def server(running: EdgeServer, monkeypatch: pytest.MonkeyPatch) -> EdgeServer:
    context = ssl.create_default_context(cafile=certifi.where())
    running.trust(context)
    monkeypatch.setattr(edge_tts.communicate, "_SSL_CTX", context)
    monkeypatch.setattr(DRM, "clock_skew_seconds", 0.0)
    running.faults.clear()
    running.requests.clear()
    running.most_at_once = 0
    return running


def engine(server: EdgeServer, attempts: int = 4, timeout_s: float = 60.0) -> Engine:
    return open_engine(
        EdgeRecipe(
            proxy=server.proxy,
            attempts=attempts,
            timeout_s=timeout_s,
            backoff_s=0.001,
            longest_backoff_s=0.01,
            concurrency=3,
        )
    )


def utterances() -> list[Utterance]:
    return [Utterance(text, VOICE) for text in TEXTS]


def assert_says(server: EdgeServer, speech: Speech | SpeechError, text: str) -> None:
    """The sound is the one that the server made for this very text."""
    assert isinstance(speech, Speech), speech
    expected = server.speech(text)
    assert speech.sample_rate_hz == expected.sample_rate_hz
    assert abs(speech.duration_s - expected.duration_s) < 0.15
    n = min(len(speech.samples), len(expected.samples))
    spectra = [np.abs(np.fft.rfft(s.samples[:n])) for s in (speech, expected)]
    assert np.corrcoef(spectra[0], spectra[1])[0, 1] > 0.9


def test_every_utterance_comes_back_in_its_place(server: EdgeServer) -> None:
    made = engine(server).synthesize_many(utterances())
    for text, speech in zip(TEXTS, made, strict=True):
        assert_says(server, speech, text)
    assert server.requests == {"": len(TEXTS), **dict.fromkeys(TEXTS, 1)}
    assert server.most_at_once <= 3


def test_faults_that_pass_are_overcome(server: EdgeServer) -> None:
    """Six utterances fail twice, each in its way: nothing is lost, nothing comes twice."""
    faulty = dict(zip(TEXTS, FAULTS, strict=False))
    server.faults = {text: (fault, 2) for text, fault in faulty.items()}
    made = engine(server).synthesize_many(utterances())
    for text, speech in zip(TEXTS, made, strict=True):
        assert_says(server, speech, text)
        assert server.requests[text] == (3 if text in faulty else 1)


def test_faults_that_stay_are_reported_with_their_reason(server: EdgeServer) -> None:
    """Half a sound is never taken for a whole one, and the other utterances are not touched."""
    faulty = dict(zip(TEXTS, FAULTS, strict=False))
    server.faults = {text: (fault, 9) for text, fault in faulty.items()}
    made = engine(server, attempts=2).synthesize_many(utterances())
    for text, speech in zip(TEXTS, made, strict=True):
        if text not in faulty:
            assert_says(server, speech, text)
            continue
        assert isinstance(speech, SpeechError), faulty[text]
        assert speech.reason == FAULTS[faulty[text]], faulty[text]
        assert server.requests[text] == 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("403", "refused"), ("403-no-date", "refused"), ("429", "busy"), ("503", "busy")],
)
def test_refused_handshakes_are_repeated_and_then_reported(
    server: EdgeServer, fault: str, reason: str
) -> None:
    server.faults = {"": (fault, 99)}
    (failed,) = engine(server, attempts=2).synthesize_many(utterances()[:1])
    assert isinstance(failed, SpeechError)
    assert failed.reason == reason
    server.requests.clear()
    server.faults = {"": (fault, 3)}
    (speech,) = engine(server).synthesize_many(utterances()[:1])
    assert_says(server, speech, TEXTS[0])


def test_a_server_that_hangs_costs_the_timeout_only(server: EdgeServer) -> None:
    server.faults = {TEXTS[0]: ("hang", 1)}
    (hung,) = engine(server, attempts=1, timeout_s=1.0).synthesize_many(utterances()[:1])
    assert isinstance(hung, SpeechError)
    assert hung.reason == "timeout"
    assert_says(server, engine(server).synthesize(TEXTS[0], VOICE), TEXTS[0])


def test_texts_that_the_service_would_answer_with_nothing_are_not_sent(server: EdgeServer) -> None:
    texts = ("", "   ", "\U0001f600", "</prosody><break time='9s'/>")
    made = engine(server).synthesize_many([Utterance(text, VOICE) for text in texts])
    assert [e.reason for e in made if isinstance(e, SpeechError)] == ["text"] * len(texts)
    assert not server.requests


def test_no_server_at_all_is_a_connection_error() -> None:
    recipe = EdgeRecipe(proxy="http://127.0.0.1:9", attempts=1)
    (failed,) = open_engine(recipe).synthesize_many(utterances()[:1])
    assert isinstance(failed, SpeechError)
    assert failed.reason == "connection"


def test_rates_reach_the_service(server: EdgeServer) -> None:
    slow = engine(server).synthesize(TEXTS[0], VOICE, 0.8)
    fast = engine(server).synthesize(TEXTS[0], VOICE, 1.25)
    assert slow.duration_s > 1.2 * fast.duration_s
