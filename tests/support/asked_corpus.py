"""A token corpus with one or two questions of several tasks, as the demo tokenizers make them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from checkpoints import FINGERPRINTS
from omni_diffusion.corpus.index import compact
from omni_diffusion.corpus.record import Record
from omni_diffusion.corpus.sample import Sample, build_sample
from omni_diffusion.corpus.shard import write_shard
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.tokenize.chat import Modality, content_pieces, tokenize_pieces
from omni_diffusion.tokenize.prompts import task_messages
from omni_diffusion.tokenize.spans import discrete_speech, to_corpus
from omni_diffusion.tokenize.text import TextTokenizer

TEXT = TextTokenizer.from_pretrained("demo")
CODES = np.arange(256) * 7
SPOKEN = np.arange(30) * 5


def sample(key: str, task: str, asked: str, answer: str) -> Sample:
    """One tokenized record; every picture has `CODES`, every sound `SPOKEN`."""
    messages = [*task_messages(task, asked), {"role": "assistant", "content": answer}]
    text = "".join(message["content"] for message in messages)
    images, audios = text.count("<|image|>"), text.count("<|audio|>")
    pieces = [
        replace(piece, modality=Modality.IMAGE_256) if piece.modality == 2 else piece
        for piece in discrete_speech(content_pieces(key, messages, images=images, audios=audios))
    ]
    ids, table = tokenize_pieces(pieces, TEXT, [len(SPOKEN)] * audios)
    media = {"image256": CODES, "speech": SPOKEN}
    counts = {"image256": images, "speech": audios}
    streams = {name: np.tile(media[name], n) for name, n in counts.items() if n}
    record = {
        "messages": messages,
        "images": ["i.png"] * images,
        "audios": ["a.wav"] * audios,
        "task": task,
    }
    return build_sample(
        key, Record.from_dict(record, key), {"text": ids, **streams}, to_corpus(table)
    )


def asked_corpus(root: Path) -> Path:
    """Write it to a folder."""
    made = [
        sample("a", "t2i", "A red ball.", "<|image|>"),
        sample("b", "asr", "", "I can see it."),
        sample("c", "tts", "Is this it?", "<|audio|>"),
        sample("d", "vqa", "What colour?", "red"),
        sample("e", "vqa", "What shape?", "ball"),
        sample("f", "text", "Hello!", "Hello."),
    ]
    write_shard(Storage(root), 0, made, FINGERPRINTS)
    compact(Storage(root))
    return root
