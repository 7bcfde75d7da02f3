"""The whole job on edge-tts, unmodified, against a server that speaks its protocol and misbehaves.

Whatever the server does, a record is either spoken whole or in the rejects with the reason, and
`--retry-rejects` makes the corpus that a good day would have made.
"""

from __future__ import annotations

import io
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest
import soundfile

edge_communicate = pytest.importorskip("edge_tts.communicate")

from edge_tts.drm import DRM  # noqa: E402

from edge_server import EdgeServer  # noqa: E402
from jobs import contents  # noqa: E402
from media_jobs import picture  # noqa: E402
from omni_diffusion.corpus.manifest import Manifest  # noqa: E402
from omni_diffusion.corpus.media_corpus import MediaCorpus  # noqa: E402
from omni_diffusion.corpus.rejects import read_rejects  # noqa: E402
from omni_diffusion.corpus.storage import Storage  # noqa: E402
from omni_diffusion.corpus.verify import verify  # noqa: E402
from omni_diffusion.pipelines.claim import claim_output  # noqa: E402
from omni_diffusion.pipelines.engine import run_job  # noqa: E402
from omni_diffusion.pipelines.synthesize import job_of  # noqa: E402
from omni_diffusion.pipelines.synthesize_recipe import SynthesizeRecipe  # noqa: E402

FAULTS = {
    "drop": "truncated",
    "truncate": "truncated",
    "half-sentences": "truncated",
    "no-audio": "no audio",
    "unknown": "protocol",
    "garbage": "protocol",
}
"""What the server does, and the reason that must stand in the rejects."""

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
CAPTIONS = tuple(f"Picture {n}. There is a boat on a lake." for n in NUMBERS)
"""Each is one utterance (no instruction before it), so the server can tell records apart."""

FAULTY = dict(zip(CAPTIONS, FAULTS, strict=False))


@pytest.fixture(scope="module")
def running() -> Iterator[EdgeServer]:
    server = EdgeServer()
    yield server
    server.close()


@pytest.fixture
def server(running: EdgeServer, monkeypatch: pytest.MonkeyPatch) -> EdgeServer:
    context = ssl.create_default_context(cafile=certifi.where())
    running.trust(context)
    monkeypatch.setattr(edge_communicate, "_SSL_CTX", context)
    monkeypatch.setattr(DRM, "clock_skew_seconds", 0.0)
    monkeypatch.setattr("omni_diffusion.sdvi.tasks.image_request", lambda _key: "")
    running.faults.clear()
    running.requests.clear()
    running.most_at_once = 0
    return running


def recipe(server: EdgeServer, folder: Path, name: str, **engine: float) -> SynthesizeRecipe:
    """Speech to image over ten captions, in two partitions."""
    source = folder / "source"
    if not source.exists():
        source.mkdir()
        (source / "a.png").write_bytes(picture(1))
        lines = [
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": caption},
                        {"role": "assistant", "content": "<|image|>"},
                    ],
                    "images": ["a.png"],
                    "task": "t2i",
                }
            )
            for caption in CAPTIONS
        ]
        (source / "data.jsonl").write_text("\n".join(lines) + "\n")
    asked = {"backoff_s": 0.001, "longest_backoff_s": 0.01, "concurrency": 3, "attempts": 4}
    value = {
        "source": {
            "kind": "conversations",
            "path": f"{source}/data.jsonl",
            "media_root": str(source),
            "source": "boats",
            "records_per_shard": 5,
        },
        "task": "speech_to_image",
        "engine": {"kind": "edge", "proxy": server.proxy} | asked | engine,
        # The server's voice is Pico's, at whatever rate is asked.
        "voices": {"rate_spread": 0.0},
        "output": str(folder / name),
        "run": {"reject_share": 1.0},
    }
    return SynthesizeRecipe.model_validate_json(json.dumps(value))


def do(wanted: SynthesizeRecipe, *, retrying_rejects: bool = False) -> Manifest:
    digest = claim_output(wanted)
    job = job_of(wanted)
    return run_job(job, wanted.run, digest, local=True, retrying_rejects=retrying_rejects)[0]


def outcome(output: Path, shards: int) -> dict[str, str]:
    """Caption to the reason of its reject, or "" where it was spoken; each exactly once."""
    corpus, found = MediaCorpus(output), []
    for row in range(len(corpus)):
        (utterance,) = corpus.record(row).record.extra["sdvi"]["utterances"]
        found.append((utterance["text_spoken"], ""))
    for number in range(shards):
        for reject in read_rejects(Storage(output), number):
            assert reject.stage == "speak"
            found.append((json.loads(reject.detail)["text"], reject.reason))
    assert len(found) == len(dict(found)) == len(CAPTIONS)
    return dict(found)


def test_faults_that_pass_leave_no_trace(server: EdgeServer, tmp_path: Path) -> None:
    """Every kind of fault once, and refused handshakes: the corpus of an undisturbed run."""
    do(recipe(server, tmp_path, "calm"))
    assert outcome(tmp_path / "calm", 2) == dict.fromkeys(CAPTIONS, "")
    assert server.requests == {"": len(CAPTIONS), **dict.fromkeys(CAPTIONS, 1)}
    assert server.most_at_once <= 3
    corpus = MediaCorpus(tmp_path / "calm")
    for row in range(len(corpus)):
        entry = corpus.record(row)
        said = entry.record.extra["sdvi"]["utterances"][0]["text_spoken"]
        expected_s = server.speech(said).duration_s
        sound = soundfile.info(io.BytesIO(entry.audios[0]))
        assert expected_s - 1.0 < sound.duration <= expected_s + 0.15  # silence is trimmed
    server.requests.clear()
    server.faults = {"": ("503", 2), **{text: (fault, 1) for text, fault in FAULTY.items()}}
    do(recipe(server, tmp_path, "rough", attempts=8))
    assert contents(tmp_path / "rough") == contents(tmp_path / "calm")


def test_faults_that_stay_are_rejects_with_their_reason_until_the_service_is_back(
    server: EdgeServer, tmp_path: Path
) -> None:
    server.faults = {text: (fault, 10**6) for text, fault in FAULTY.items()}
    wanted = recipe(server, tmp_path, "out", attempts=2)
    manifest = do(wanted)
    assert (manifest.rows, manifest.rejects) == (len(CAPTIONS) - len(FAULTS), len(FAULTS))
    expected = {text: FAULTS[FAULTY[text]] if text in FAULTY else "" for text in CAPTIONS}
    assert outcome(tmp_path / "out", 2) == expected
    assert not verify(tmp_path / "out", workers=1).problems
    server.faults.clear()
    assert do(wanted, retrying_rejects=True).rejects == 0
    do(recipe(server, tmp_path, "calm"))
    assert contents(tmp_path / "out") == contents(tmp_path / "calm")


def test_a_service_that_hangs_costs_the_timeout_and_no_record(
    server: EdgeServer, tmp_path: Path
) -> None:
    """Everything hangs, so that a slow machine cannot be mistaken for it; then all is well."""
    server.faults = dict.fromkeys(CAPTIONS, ("hang", 10**6))
    do(recipe(server, tmp_path, "out", attempts=1, timeout_s=0.5, concurrency=10))
    assert outcome(tmp_path / "out", 2) == dict.fromkeys(CAPTIONS, "timeout")
    server.faults.clear()
    assert do(recipe(server, tmp_path, "out"), retrying_rejects=True).rejects == 0


@pytest.mark.parametrize(
    ("fault", "reason"), [("403", "refused"), ("429", "busy"), ("503", "busy")]
)
def test_a_service_that_refuses_everybody_loses_no_record(
    server: EdgeServer, tmp_path: Path, fault: str, reason: str
) -> None:
    server.faults = {"": (fault, 10**6)}
    wanted = recipe(server, tmp_path, "out", attempts=2)
    assert do(wanted).rows == 0
    assert outcome(tmp_path / "out", 2) == dict.fromkeys(CAPTIONS, reason)
    server.faults.clear()
    assert do(wanted, retrying_rejects=True).rejects == 0
