"""Tiny copies of the paper's data sets: real columns, real media, a few rows each."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from PIL import Image

from source_checks import write_jsonl, write_tar

ROWS = 3

Build = Callable[[Path], list[str]]
"""Writes a data set into a folder; returns overrides that point its recipe there."""


@dataclass(frozen=True)
class DataSet:
    """A tiny data set.

    Attributes:
        build: what writes it.
        first: messages of its first record, in part.
        extra: what else its record must hold.
    """

    build: Build
    first: str
    extra: Mapping[str, str] = field(default_factory=dict)


def picture(number: int = 0) -> bytes:
    """A small JPEG."""
    sink = io.BytesIO()
    Image.new("RGB", (24, 16), (number * 60 % 256, 120, 200)).save(sink, "JPEG")
    return sink.getvalue()


def sound(number: int = 0, form: str = "FLAC") -> bytes:
    """A fifth of a second of a tone."""
    sink = io.BytesIO()
    tone = 0.3 * np.sin(np.arange(3200) * (0.05 + number / 50))
    soundfile.write(sink, tone, 16_000, format=form)
    return sink.getvalue()


def image_cell(number: int) -> dict[str, Any]:
    """How the hub's parquet files hold a picture."""
    return {"bytes": picture(number), "path": f"{number}.jpg"}


def audio_cell(number: int) -> dict[str, Any]:
    """How the hub's parquet files hold a sound."""
    return {"bytes": sound(number), "path": f"{number}.flac"}


def on_hub(config: str | None, split: str, row: Callable[[int], dict[str, Any]]) -> Build:
    """A repository of the hub: parquet files, and a card that says what they are."""

    def build(folder: Path) -> list[str]:
        data = folder / (config or "data")
        data.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([row(i) for i in range(ROWS)]), data / "0.parquet")
        files = [{"split": split, "path": f"{data.name}/*"}]
        card = {"configs": [{"config_name": config or "default", "data_files": files}]}
        (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
        return [f"source.name={folder}"]

    return build


def in_parquet(row: Callable[[int], dict[str, Any]]) -> Build:
    """One folder a subset, with parquet files in it."""

    def build(folder: Path) -> list[str]:
        (folder / "subset(one)").mkdir(parents=True)
        table = pa.Table.from_pylist([row(i) for i in range(ROWS)])
        pq.write_table(table, folder / "subset(one)" / "train-00000-of-00001.parquet")
        return [f"source.path={folder}/*/*.parquet"]

    return build


def in_tar(members: Callable[[int], dict[str, bytes]]) -> Build:
    """One WebDataset tar."""

    def build(folder: Path) -> list[str]:
        folder.mkdir(parents=True)
        write_tar(folder / "00000.tar", {k: v for i in range(ROWS) for k, v in members(i).items()})
        return [f"source.path={folder}/*.tar"]

    return build


def in_jsonl(
    row: Callable[[int], dict[str, Any]], media: Callable[[int], dict[str, bytes]]
) -> Build:
    """JSON lines, and files beside them."""

    def build(folder: Path) -> list[str]:
        for i in range(ROWS):
            for name, data in media(i).items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
        write_jsonl(folder / "train.jsonl", [row(i) for i in range(ROWS)])
        return [f"source.path={folder}/train.jsonl", f"source.media_root={folder}"]

    return build


def common_voice(folder: Path) -> list[str]:
    """A release of Common Voice."""
    columns = "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender"
    header = [*columns.split(), "accents", "variant", "locale", "segment"]
    (folder / "clips").mkdir(parents=True)
    lines = ["\t".join(header)]
    for i in range(ROWS):
        cells = {"client_id": f"c{i}", "path": f"cv_{i}.mp3", "locale": "en", "up_votes": "2"}
        cells["sentence"] = f"Sentence {i}."
        (folder / "clips" / cells["path"]).write_bytes(sound(i, "MP3"))
        lines.append("\t".join(cells.get(name, "") for name in header))
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")
    return [f"source.path={folder}/train.tsv"]


def _tulu(i: int) -> dict[str, Any]:
    turns = [{"content": f"Question {i}?", "role": "user"}]
    turns += [{"content": f"Answer {i}.", "role": "assistant"}]
    return {"id": f"tulu_{i}", "messages": turns, "source": "ai2-adapt-dev/flan_v2_converted"}


def _laion(i: int) -> dict[str, bytes]:
    about = {"caption": f"Caption {i}", "url": f"https://example.org/{i}", "key": f"{i:09d}"}
    about |= {"status": "success", "error_message": None, "width": 24, "height": 16}
    members = {
        "jpg": picture(i),
        "txt": f"Caption {i}".encode(),
        "json": json.dumps(about).encode(),
    }
    return {f"{i:09d}.{extension}": data for extension, data in members.items()}


def _llava(i: int) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<image>\nQuestion {i}?"}]
    turns += [{"from": "gpt", "value": f"Answer {i}."}]
    return {"id": f"l{i}", "image": image_cell(i), "conversations": turns, "data_source": "subset"}


def _own(i: int) -> dict[str, Any]:
    turns = [{"role": "user", "content": "Question?\n<|image|>"}]
    turns += [{"role": "assistant", "content": "Answer."}]
    return {"messages": turns, "images": [f"images/{i}.jpg"], "task": "vqa"}


def _blip3o(i: int) -> dict[str, bytes]:
    return {f"{i}.jpg": picture(i), f"{i}.txt": f"Caption {i}".encode()}


def _journeydb(i: int) -> dict[str, Any]:
    about = {"img_path": f"./000/{i}.jpg", "prompt": f"Caption {i}", "Task1": {}}
    return about | {"Task2": {"Caption": "another"}, "Task3": {}}


def _librispeech(i: int) -> dict[str, Any]:
    about = {"file": f"84-121123-000{i}.flac", "audio": audio_cell(i), "text": f"SENTENCE {i}"}
    return about | {"speaker_id": 84, "chapter_id": 121123, "id": f"84-121123-000{i}"}


def _gigaspeech(i: int) -> dict[str, Any]:
    about = {"segment_id": f"YOU_{i}", "speaker": "N/A", "text": f"WELL <COMMA> I SAY {i} <PERIOD>"}
    about |= {"audio": audio_cell(i), "begin_time": 0.0, "end_time": 0.2, "audio_id": "YOU"}
    about |= {"title": "N/A", "url": "N/A", "source": 2, "category": 24}
    return about | {"original_full_path": "audio/youtube/YOU.opus"}


def _peoples(i: int) -> dict[str, Any]:
    return {"id": f"p{i}.flac", "audio": audio_cell(i), "duration_ms": 200, "text": f"sentence {i}"}


def _voxpopuli(i: int) -> dict[str, Any]:
    about = {"audio_id": f"v{i}", "language": 0, "audio": audio_cell(i), "raw_text": ""}
    about |= {"normalized_text": f"sentence {i}", "gender": "female", "speaker_id": "1"}
    return about | {"is_gold_transcript": True, "accent": "None"}


def _libritts(i: int) -> dict[str, Any]:
    about = {"audio": audio_cell(i), "text_normalized": f"Sentence {i}.", "text_original": "other"}
    about |= {"speaker_id": "84", "path": f"84_{i}.wav", "chapter_id": "121123"}
    return about | {"id": f"84_121123_{i}"}


def _globe(i: int) -> dict[str, Any]:
    about = {"audio": audio_cell(i), "speaker_id": f"S{i}", "transcript": f"Sentence {i}."}
    return about | {"accent": "Scottish English", "duration": 0.2, "age": "", "gender": "male"}


def _emilia(i: int) -> dict[str, bytes]:
    key = f"EN_B00000_S00000_W{i:06d}"
    about = {"id": key, "wav": f"EN_B00000/EN_B00000_S00000/mp3/{key}.mp3", "language": "en"}
    about |= {"text": f" Sentence {i}.", "speaker": "EN_B00000_S00000"}
    numbers = {"duration": 0.2, "dnsmos": 3.4}
    return {f"{key}.json": json.dumps(about | numbers).encode(), f"{key}.mp3": sound(i, "MP3")}


def _assistant(i: int) -> dict[str, Any]:
    about = {"split_name": "qa_assistant", "index": f"a{i}", "round": "1", "answer_snac": "# 1 2"}
    return about | {"question": "Q?", "question_audio": audio_cell(i), "answer": f"Answer {i}."}


def _audioqa(i: int) -> dict[str, Any]:
    turns = [{"role": "user", "content": "<|audio|>"}]
    turns += [{"role": "assistant", "content": f"Answer {i}.\n<|audio|>"}]
    return {"messages": turns, "audios": [f"q/{i}.wav", f"a/{i}.wav"], "task": "sqa"}


TABLE4 = {
    "tulu3": DataSet(on_hub(None, "train", _tulu), "Question 0?", {"origin": "tulu_0"}),
    "laion2b": DataSet(in_tar(_laion), "Caption 0", {"url": "https://example.org/0"}),
    "llava-onevision": DataSet(in_parquet(_llava), "Question 0?\n<|image|>", {"subset": "subset"}),
    "vqa-own": DataSet(in_jsonl(_own, lambda i: {f"images/{i}.jpg": picture(i)}), "Question?"),
    "journeydb-blip3o": DataSet(in_tar(_blip3o), "description.\nCaption 0"),
    "journeydb": DataSet(
        in_jsonl(_journeydb, lambda i: {f"000/{i}.jpg": picture(i)}), "description.\nCaption 0"
    ),
    "librispeech": DataSet(
        on_hub("clean", "train.100", _librispeech), "sentence 0", {"speaker": "84"}
    ),
    "common-voice-17": DataSet(common_voice, "Sentence 0.", {"speaker": "c0"}),
    "gigaspeech": DataSet(on_hub("m", "train", _gigaspeech), "Well, I say 0.", {"origin": "YOU_0"}),
    "peoples-speech": DataSet(on_hub("clean", "train", _peoples), "sentence 0"),
    "voxpopuli": DataSet(on_hub("en", "train", _voxpopuli), "sentence 0", {"gender": "female"}),
    "libritts": DataSet(on_hub("clean", "train.clean.100", _libritts), "speech.\nSentence 0."),
    "globe": DataSet(on_hub(None, "train", _globe), "speech.\nSentence 0.", {"speaker": "S0"}),
    "emilia": DataSet(in_tar(_emilia), "speech.\nSentence 0.", {"speaker": "EN_B00000_S00000"}),
    "voice-assistant-400k": DataSet(on_hub(None, "train", _assistant), "Answer 0."),
    "audioqa-1m": DataSet(
        in_jsonl(_audioqa, lambda i: {f"{side}/{i}.wav": sound(i, "WAV") for side in ("q", "a")}),
        "Answer 0.\n<|audio|>",
    ),
}
"""Name of a recipe under `tokenize/` to a tiny copy of its data set."""
