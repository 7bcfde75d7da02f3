"""Small token corpora of every task, in the chat layout, to train on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.index import compact
from omni_diffusion.corpus.record import Record
from omni_diffusion.corpus.sample import STREAMS, Sample, build_sample
from omni_diffusion.corpus.shard import write_shard
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.tokenize.chat import (
    IMAGE_CODES,
    Modality,
    Piece,
    content_pieces,
    tokenize_pieces,
)
from omni_diffusion.tokenize.prompts import task_messages
from omni_diffusion.tokenize.spans import discrete_speech, to_corpus
from omni_diffusion.tokenize.text import TextTokenizer

TOKENIZER = TextTokenizer.from_pretrained("demo")
FINGERPRINTS = {"text": TOKENIZER.fingerprint, "image": "i-1", "speech": "s-1"}
ANSWERS = {
    "asr": "{text}",
    "tts": "<|audio|>",
    "t2i": "<|image|>",
    "caption": "{text}",
    "text": "{text}",
    "svqa": "{text}\n<|audio|>",
    "s2i": "<|image|>",
}
WORDS = ("red", "green", "blue", "circle", "square", "above", "left", "of", "the", "is", "big")
FEATURE_COLUMNS = 6


def training_sample(
    key: str, task: str, rng: np.random.Generator, *, features: bool = True, most: int = 40
) -> Sample:
    """A sample of a task with random words, codes and lengths."""
    text = " ".join(rng.choice(WORDS, rng.integers(1, 12)))
    asked = "" if task in ("asr", "svqa", "s2i") else text
    answer = ANSWERS[task].format(text=text)
    messages = [*task_messages(task, asked), {"role": "assistant", "content": answer}]
    content = "".join(message["content"] for message in messages)
    images, audios = content.count("<|image|>"), content.count("<|audio|>")
    record = {"messages": messages, "task": task, "source": "made-up"}
    record |= {"images": ["a.png"] * images, "audios": ["a.wav"] * audios}
    pieces = content_pieces(key, messages, images=images, audios=audios)
    pieces = pieces if features else discrete_speech(pieces)
    return _with_media(key, Record.from_dict(record, key), _small(pieces), rng, most)


def _small(pieces: list[Piece]) -> list[Piece]:
    """Pictures of 256 codes everywhere: shorter rows."""
    return [
        replace(p, modality=Modality.IMAGE_256) if p.modality == Modality.IMAGE_512 else p
        for p in pieces
    ]


def _with_media(
    key: str, record: Record, pieces: list[Piece], rng: np.random.Generator, most: int
) -> Sample:
    lengths = [0] * len(record.audios)
    streams: dict[str, Any] = {}
    for piece in pieces:
        if piece.modality == Modality.TEXT:
            continue
        length = IMAGE_CODES.get(piece.modality) or int(rng.integers(1, most))
        if piece.modality == Modality.FEATURES:
            made: Any = rng.standard_normal((length, FEATURE_COLUMNS)).astype(np.float16)
        else:
            made = rng.integers(0, 8192, length)
        if piece.modality in (Modality.FEATURES, Modality.SPEECH):
            lengths[piece.media] = length
        streams.setdefault(STREAMS[piece.modality].name, []).append(made)
    text, table = tokenize_pieces(pieces, TOKENIZER, lengths)
    streams = {name: np.concatenate(parts) for name, parts in streams.items()}
    return build_sample(key, record, {"text": text, **streams}, to_corpus(table))


def training_corpus(
    folder: Path | str,
    samples_per_shard: list[int],
    tasks: list[str],
    *,
    seed: int = 0,
    features: bool = True,
    fingerprints: dict[str, str] | None = None,
) -> Storage:
    """A finished corpus; keys are `s0`, `s1`, ... and tasks take turns."""
    storage, at = Storage(folder), 0
    for number, count in enumerate(samples_per_shard):
        made = [
            training_sample(
                f"s{i}", tasks[i % len(tasks)], np.random.default_rng((seed, i)), features=features
            )
            for i in range(at, at + count)
        ]
        write_shard(storage, number, made, fingerprints or FINGERPRINTS)
        at += count
    compact(storage)
    return storage


def damage(folder: Path, key: str) -> None:
    """Change one byte of a sample."""
    corpus = Corpus(folder)
    row = corpus.index.find(key)
    path = folder / f"shards/{corpus.index.shard[row]:05d}.tar"
    data = bytearray(path.read_bytes())
    data[corpus.index.offset[row] + corpus.index.size[row] // 2] ^= 1
    path.write_bytes(data)
