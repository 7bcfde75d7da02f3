"""A small corpus with a bit of everything that an audit asks for, and what went into it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omni_diffusion.corpus.index import compact
from omni_diffusion.corpus.record import Record
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.corpus.sample import BY_NAME, SPAN, Sample, build_sample
from omni_diffusion.corpus.shard import write_shard
from omni_diffusion.corpus.storage import Storage

FINGERPRINTS = {"text": "text-demo-1", "image": "magvit2-demo-1", "speech": "glm4voice-demo-1"}
CAPTION = "A <b>red</b> circle,\nno \u2028 square \U0001f600."


@dataclass(frozen=True)
class Varied:
    """A corpus and what went into it, shard by shard."""

    root: str
    shards: list[list[Sample]]
    rejects: list[list[Reject]]

    @property
    def samples(self) -> list[Sample]:
        return [sample for shard in self.shards for sample in shard]

    @property
    def shard_of(self) -> dict[str, int]:
        return {s.key: n for n, shard in enumerate(self.shards) for s in shard}


def picture(key: str, rng: np.random.Generator, source: str, stream: str = "image256") -> Sample:
    """A picture made from a text: `t2i`, or with the other size a question about one: `vqa`."""
    codes, text = {"image256": 256, "image512": 1024}[stream], int(rng.integers(5, 40))
    ask, answer = ("text", stream) if stream == "image256" else (stream, "text")
    content = {"text": CAPTION, stream: "<|image|>"}
    fields: dict[str, Any] = {
        "messages": [
            {"role": "user", "content": content[ask]},
            {"role": "assistant", "content": content[answer]},
        ],
        "images": [f"{key}.png"],
        "task": "t2i" if stream == "image256" else "vqa",
        "source": source,
        "license": "CC0-1.0",
        "language": "en",
        "provenance": {"origin": f"https://example.org/{key}"},
    }
    streams = {"text": rng.integers(0, 1000, text), stream: rng.integers(0, 300, codes)}
    lengths = {"text": (text, 0), stream: (codes, int(codes**0.5))}
    spans = [
        (i, 1 + i, BY_NAME[name].code, 0, *lengths[name]) for i, name in enumerate((ask, answer))
    ]
    return build_sample(key, Record.from_dict(fields, key), streams, np.array(spans, SPAN))


def speech(key: str, rng: np.random.Generator, voice: int, language: str, wer: float | None) -> Any:
    """A text read aloud by a synthetic voice."""
    text, sound = int(rng.integers(5, 40)), int(rng.integers(20, 200))
    fields: dict[str, Any] = {
        "messages": [
            {"role": "user", "content": f"Say {key}."},
            {"role": "assistant", "content": "<|audio|>"},
        ],
        "audios": [f"{key}.flac"],
        "task": "tts",
        "source": "voices",
        "language": language,
        "provenance": {"voice": f"voice-{voice}", "tts_engine": ("edge", "pico")[voice % 2]},
        "quality": {"duration_s": sound / 12.5} | ({} if wer is None else {"wer": wer, "cer": wer}),
    }
    streams = {"text": rng.integers(0, 1000, text), "speech": rng.integers(0, 500, sound)}
    spans = [(0, 1, BY_NAME["text"].code, 0, text, 0), (1, 2, BY_NAME["speech"].code, 0, sound, 0)]
    return build_sample(key, Record.from_dict(fields, key), streams, np.array(spans, SPAN))


def copy_of(sample: Sample, key: str, source: str) -> Sample:
    """Equal tokens under another key and from another source."""
    fields = sample.record.to_dict() | {"source": source}
    record = Record.from_dict(fields, key)
    return build_sample(key, record, sample.streams, sample.spans)


def make_varied(
    root: Path | str, per_shard: int = 30, fingerprints: Mapping[str, str] = FINGERPRINTS
) -> Varied:
    """Four shards: pictures, questions, speech, and copies of some of them; rejects; two runs."""
    storage, rng = Storage(root), np.random.default_rng(5)
    pictures = [picture(f"p{i}", rng, "pictures") for i in range(per_shard)]
    questions = [picture(f"q{i}", rng, "questions", "image512") for i in range(per_shard)]
    rates = [None, 0.0, 0.01, 0.03, 0.1, 0.2, 0.7]
    spoken = [
        speech(f"v{i}", rng, i % 4, ("en", "zh")[i % 3 == 0], rates[i % len(rates)])
        for i in range(per_shard)
    ]
    copies = [copy_of(pictures[0], "c0", "pictures"), copy_of(pictures[0], "c1", "captions")]
    copies += [copy_of(spoken[i], f"c{i + 2}", "voices") for i in range(3)]
    rejects = [
        [Reject(key=f"bad{i}", stage="decode", reason="truncated JPEG", detail=f"at {i}")]
        for i in range(2)
    ]
    rejects += [[Reject(key="worse", stage="validate", reason="no messages")], []]
    shards = [pictures, questions, spoken, copies]
    for number, samples in enumerate(shards):
        write_shard(storage, number, samples, fingerprints, rejects[number])
    compact(storage)
    for i, state in enumerate(("failed", "finished")):
        run: dict[str, Any] = {"run": f"2026010{i}T000000-00", "job": "tokenize", "state": state}
        run |= {"started": f"2026-01-0{i + 1}T10:00:00.000+00:00", "rows": 10 + i, "rejects": i}
        run |= {"partitions": {"total": 4, "done": 2 * i + 2, "given_up": 1 - i}}
        storage.publish_bytes(json.dumps(run).encode(), f"runs/{run['run']}.json")
    return Varied(str(root), shards, rejects)
