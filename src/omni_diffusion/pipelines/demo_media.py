"""A small media corpus out of installed packages: something real to run every job on.

The pictures, captions and questions of `demo_records`, and sentences about them spoken by SVOX
Pico: to write down, and to speak (engine Apache-2.0).

Everything is a function of the counts and the installed packages, down to the bytes. They are
pictograms, shapes and one plain synthesizer: enough to see every part work, no more.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from omni_diffusion.corpus import tar
from omni_diffusion.corpus.media_record import MediaRecord, encode_media
from omni_diffusion.corpus.record import Record
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.pipelines import demo_records
from omni_diffusion.pipelines.demo_speaker import SAMPLE_RATE_HZ, VOICES, speak
from omni_diffusion.tokenize.prompts import task_messages

PACKAGES = (*demo_records.PACKAGES, "py_nanotts")
"""What the extra installs."""

_SETTINGS = "demo-media.json"
_PER_TAR = 60
_SENTENCES = ("I can see {thing}.", "Is this {thing}?", "Please draw {thing} for me.")


@dataclass(frozen=True, slots=True)
class _Tar:
    """One archive to make: its name, how many pictures or clips it has, and how to make them."""

    name: str
    count: int
    make: Callable[[], Iterator[MediaRecord]]


def prepare_demo_media(
    folder: Path,
    drawings: int = 120,
    questions: int = 60,
    clips: int = 120,
    *,
    each: int = 1,
    split: demo_records.Split = "train",
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the corpus as WebDataset tars of our own layout; what is there already stays.

    Every drawing makes two samples (`caption`, `t2i`), every question one. Every other clip is to
    be written down (`asr`), the rest to be spoken (`tts`).

    Args:
        folder: where to.
        drawings: how many drawings of OpenMoji.
        questions: how many pictures of easy-vqa with questions. They are counted from the other
            end than those that `synthesize` speaks, so a model that learns from both corpora has
            not heard the question that is kept from it in writing.
        clips: how many spoken clips.
        each: how many questions of each picture, a sample each; the fewest have two.
        split: `test` asks about pictures that `train` does not have.
        on_progress: called with pictures and clips done, and how many there are, after each tar.

    Raises:
        SourceError: a package is missing, or has not so many pictures.
        ShardConflictError: the folder was made with other counts.
        StorageError: the disk refused.
    """
    demo_records.require(PACKAGES)
    storage = Storage(folder)
    settings: dict[str, int | str]
    settings = {"drawings": drawings, "questions": questions, "clips": clips}
    if each != 1 or split != "train":  # otherwise as folders of older versions have it
        settings |= {"questions_each": each, "split": split}
    storage.publish_bytes(json.dumps(settings).encode(), _SETTINGS)
    drawn = partial(demo_records.drawings, tasks=("caption", "t2i"))
    asked = partial(demo_records.questions, split=split, each=each, from_end=True)
    archives = [
        *_archives("drawings", drawings, drawn),
        *_archives("questions", questions, asked),
        *_archives("clips", clips, _clips),
    ]
    done, total = 0, sum(archive.count for archive in archives)
    for archive in archives:
        if storage.size(archive.name) is None:
            storage.publish_bytes(_tar_bytes(archive.make()), archive.name)
        done += archive.count
        if on_progress is not None:
            on_progress(done, total)


def _archives(
    name: str, count: int, make: Callable[[range], Iterator[MediaRecord]]
) -> Iterator[_Tar]:
    for number, start in enumerate(range(0, count, _PER_TAR)):
        part = range(start, min(start + _PER_TAR, count))
        yield _Tar(f"{name}-{number:05d}.tar", len(part), partial(make, part))


def _tar_bytes(items: Iterator[MediaRecord]) -> bytes:
    return b"".join([*map(encode_media, items), tar.END])


def _clips(part: range) -> Iterator[MediaRecord]:
    spoken = [_sentence(i) for i in part]
    for i, (voice, text), sound in zip(part, spoken, speak(spoken), strict=True):
        task = ("asr", "tts")[i // len(VOICES) % 2]
        if task == "asr":
            messages = [*task_messages("asr"), {"role": "assistant", "content": text}]
        else:
            messages = [*task_messages("tts", text), {"role": "assistant", "content": "<|audio|>"}]
        record = {
            "messages": messages,
            "audios": [f"clip{i}.flac"],
            "task": task,
            "source": "pico",
            "license": "Apache-2.0",
            "language": "en",
            "provenance": {"origin": f"clip {i}", "voice": voice, "tts_engine": "SVOX Pico"},
            "quality": {"duration_s": len(sound) / 2 / SAMPLE_RATE_HZ},
        }
        key = f"clip-{i:05d}"
        yield MediaRecord(key=key, record=Record.from_dict(record, key), audios=(_flac(sound),))


def _sentence(number: int) -> tuple[str, str]:
    """Voice and text of one clip."""
    voice = VOICES[number % len(VOICES)]
    if number % 3 == 2:
        return voice, demo_records.question(-1 - number)
    things = demo_records.things()
    pattern = _SENTENCES[number // 3 % len(_SENTENCES)]
    return voice, demo_records.worded(pattern, things[-1 - number % len(things)][1])


def _flac(samples: bytes) -> bytes:
    sink = io.BytesIO()
    soundfile.write(sink, np.frombuffer(samples, "<i2"), SAMPLE_RATE_HZ, "PCM_16", format="FLAC")
    return sink.getvalue()
