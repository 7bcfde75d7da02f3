"""Samples and corpora to test with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from omni_diffusion.corpus.index import compact
from omni_diffusion.corpus.record import ROLES, Record
from omni_diffusion.corpus.sample import BY_NAME, SPAN, Sample, build_sample
from omni_diffusion.corpus.shard import write_shard
from omni_diffusion.corpus.storage import Storage

FINGERPRINTS = {"text": "text-demo-1", "image": "magvit2-demo-1", "speech": "glm4voice-demo-1"}
KEYS = st.text("abcXYZ019_-", min_size=1, max_size=20)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def make_sample(key: str, seed: int = 0, question: str = "What is it?") -> Sample:
    """A spoken question about a picture: text, picture and speech, drawn from the seed."""
    rng = np.random.default_rng(seed)
    streams = {
        "text": rng.integers(0, 151_643, 12),
        "image256": rng.integers(0, 8192, 6),
        "speech": rng.integers(0, 16384, 9),
    }
    spans = [
        (0, 1, BY_NAME["speech"].code, 0, 9, 0),
        (0, 1, BY_NAME["image256"].code, 0, 6, 2),
        (1, 2, BY_NAME["text"].code, 0, 12, 0),
    ]
    record = Record.from_dict(
        {
            "messages": [
                {"role": "user", "content": f"{question}<|audio|><|image|>"},
                {"role": "assistant", "content": f"Answer {seed}."},
            ],
            "images": ["a.png"],
            "audios": ["q.flac"],
            "task": "svqa",
            "source": "made-up",
            "license": "CC0-1.0",
            "language": "en",
            "provenance": {"voice": f"voice-{seed % 3}"},
            "quality": {"wer": seed / 100},
        },
        key,
    )
    return build_sample(key, record, streams, np.array(spans, SPAN))


def make_corpus(folder: Path | str, samples_per_shard: list[int]) -> Storage:
    """A finished corpus; keys are `s0`, `s1`, ... over all shards."""
    storage, at = Storage(folder), 0
    for number, count in enumerate(samples_per_shard):
        made = [make_sample(f"s{i}", i) for i in range(at, at + count)]
        write_shard(storage, number, made, FINGERPRINTS)
        at += count
    compact(storage)
    return storage


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Any valid record."""
    images, audios, messages = [], [], []
    for _ in range(draw(st.integers(1, 4))):
        content = ""
        for _ in range(draw(st.integers(0, 3))):
            piece = draw(st.sampled_from(["text", "<|image|>", "<|audio|>"]))
            text = draw(TEXTS).replace("<|image|>", "").replace("<|audio|>", "")
            content += text if piece == "text" else piece
        images += [f"i{len(images)}.png"] * content.count("<|image|>")
        audios += [f"a{len(audios)}.wav"] * content.count("<|audio|>")
        messages.append({"role": draw(st.sampled_from(ROLES)), "content": content})
    plain: dict[str, Any] = {"messages": messages, "images": images, "audios": audios}
    plain |= {name: draw(TEXTS) for name in ("source", "license", "language")}
    plain["task"] = draw(st.sampled_from(["", "t2i", "svqa"]))
    plain["provenance"] = draw(st.dictionaries(TEXTS, TEXTS, max_size=2))
    numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
    plain["quality"] = draw(st.dictionaries(st.sampled_from(["wer", "mos"]), numbers))
    plain["extra"] = draw(st.dictionaries(TEXTS, st.none() | st.integers() | TEXTS, max_size=2))
    return Record.from_dict(plain)


@st.composite
def samples(draw: st.DrawFn, key: str | None = None) -> Sample:
    """Any valid sample: every mix of streams, some empty, spans anywhere inside them."""
    record = draw(records())
    streams: dict[str, Any] = {}
    spans = []
    for kind in BY_NAME.values():
        if not draw(st.booleans()):
            continue
        rows = draw(st.integers(0, 30))
        if kind.name == "features":
            width = draw(st.integers(1, 4))
            values = st.floats(-6e4, 6e4, allow_nan=False)
            flat = draw(st.lists(values, min_size=rows * width, max_size=rows * width))
            streams[kind.name] = np.array(flat, np.float32).reshape(rows, width)
        else:
            values = st.integers(0, np.iinfo(kind.dtype).max)
            streams[kind.name] = np.array(
                draw(st.lists(values, min_size=rows, max_size=rows)), np.int64
            )
        start = draw(st.integers(0, rows))
        length = draw(st.integers(0, rows - start))
        height = length and draw(st.sampled_from([1, length]))
        if kind.name.startswith("image") and not length:
            continue
        message = draw(st.integers(0, len(record.messages) - 1))
        role = draw(st.integers(0, 2))
        is_image = kind.name.startswith("image")
        spans.append((message, role, kind.code, start, length, height if is_image else 0))
    return build_sample(key or draw(KEYS), record, streams, np.array(spans, SPAN))


def same(one: Sample, other: Sample) -> bool:
    """Whether two samples hold the same record, spans and arrays."""
    return (
        one.key == other.key
        and one.record == other.record
        and np.array_equal(one.spans, other.spans)
        and one.streams.keys() == other.streams.keys()
        and all(np.array_equal(one.streams[n], other.streams[n]) for n in one.streams)
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by relative name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
