"""Unpacked speech data sets: transcripts find their sounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.errors import SourceError
from source_checks import read_all, source_of, texts, told

TABLE = "client_id\tpath\tsentence\tage\tlocale\taccents"


def librispeech(folder: Path) -> None:
    for chapter, lines in {"84/121123": 4, "84/121550": 3, "103/1240": 2}.items():
        place, stem = folder / chapter, chapter.replace("/", "-")
        place.mkdir(parents=True)
        text = "".join(f"{stem}-{i:04d} GO DO YOU HEAR {i}\n" for i in range(lines))
        (place / f"{stem}.trans.txt").write_text(text)
        for i in range(lines):
            (place / f"{stem}-{i:04d}.flac").write_bytes(f"{stem} {i}".encode())


def libritts(folder: Path) -> None:
    for chapter, count in {"84/121123": 4, "103/1240": 5}.items():
        place, stem = folder / chapter, chapter.replace("/", "_")
        place.mkdir(parents=True)
        for i in range(count):
            name = f"{stem}_{i:06d}_000000"
            (place / f"{name}.normalized.txt").write_text(f"Go {i}.")
            (place / f"{name}.original.txt").write_text("not this one")
            (place / f"{name}.wav").write_bytes(name.encode())
        (place / f"{stem}.trans.tsv").write_text("nor this one")


def common_voice(folder: Path) -> None:
    (folder / "clips").mkdir(parents=True)
    rows = [TABLE]
    for i in range(9):
        (folder / "clips" / f"common_voice_en_{i}.mp3").write_bytes(b"clip %d" % i)
        rows.append(f'speaker{i}\tcommon_voice_en_{i}.mp3\tHe said "{i}".\t\ten\tUS')
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")


LAYOUTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "librispeech": (librispeech, ""),
    "libritts": (libritts, ""),
    "common_voice": (common_voice, "/train.tsv"),
}


def made(folder: Path, layout: str, **settings: Any) -> Any:
    build, table = LAYOUTS[layout]
    if not folder.exists():
        build(folder)
    defaults = {"kind": "folder", "layout": layout, "tasks": ["asr"], "path": f"{folder}{table}"}
    return source_of(folder.parent, **defaults | settings)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("records_per_shard", [1, 4, 5, 100])
def test_every_utterance_comes_out_once_in_order(
    tmp_path: Path, layout: str, records_per_shard: int
) -> None:
    whole = read_all(made(tmp_path / "set", layout))
    source = made(tmp_path / "set", layout, records_per_shard=records_per_shard)
    found = read_all(source)
    assert told(found) == ["item"] * 9
    strip = [(o.record, o.audios) for o in found if isinstance(o, MediaRecord)]
    assert strip == [(o.record, o.audios) for o in whole if isinstance(o, MediaRecord)]
    assert len({audios for _, audios in strip}) == 9
    if layout != "librispeech":  # whose chapters stay together
        assert all((p.rows or 0) <= records_per_shard for p in source.partitions())


def test_librispeech(tmp_path: Path) -> None:
    first, *_ = read_all(made(tmp_path / "set", "librispeech", clean=["lowercase"]))
    assert texts(first)[-1] == "assistant: go do you hear 0"
    assert isinstance(first, MediaRecord)
    assert first.audios == (b"103-1240 0",)
    assert first.record.provenance == {"origin": "103-1240-0000", "speaker": "103"}


def test_libritts_uses_the_normalized_text(tmp_path: Path) -> None:
    first, *_ = read_all(made(tmp_path / "set", "libritts", tasks=["tts"]))
    assert texts(first)[0] == "user: Convert the text to speech.\nGo 0."
    assert isinstance(first, MediaRecord)
    assert first.audios == (b"103_1240_000000_000000",)
    assert first.record.provenance == {"origin": "103_1240_000000_000000", "speaker": "103"}


def test_common_voice(tmp_path: Path) -> None:
    first, *_ = read_all(made(tmp_path / "set", "common_voice"))
    assert texts(first)[-1] == 'assistant: He said "0".'
    assert isinstance(first, MediaRecord)
    assert first.audios == (b"clip 0",)
    expected = {"origin": "common_voice_en_0.mp3", "speaker": "speaker0", "accent": "US"}
    assert first.record.provenance == expected
    assert first.record.language == "en"


@pytest.mark.parametrize("limit", [1, 5, 9, 50])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_limit_takes_the_first(tmp_path: Path, layout: str, limit: int) -> None:
    settings = {"tasks": ["asr", "tts"], "records_per_shard": 6}
    whole = read_all(made(tmp_path / "set", layout, **settings))
    found = read_all(made(tmp_path / "set", layout, limit=limit, **settings))
    assert found == whole[:limit]


def test_what_is_broken_in_librispeech_is_rejected(tmp_path: Path) -> None:
    librispeech(tmp_path / "set")
    chapter = tmp_path / "set/103/1240/103-1240.trans.txt"
    chapter.write_bytes(b"103-1240-0000\n103-1240-0001 \xff\n../../secret HI\nx Y\n103-1240-0001 Z")
    found = read_all(made(tmp_path / "set", "librispeech"))
    reasons = ["empty text", "not UTF-8", "media outside its root", "missing media", "item"]
    assert told(found)[:2] == reasons[:2]
    assert told(found)[3:] == [*reasons[3:], *["item"] * 7]


def test_what_is_broken_in_a_table_is_rejected(tmp_path: Path) -> None:
    common_voice(tmp_path / "set")
    lines = [
        b"s\tcommon_voice_en_0.mp3\tonly three",
        b"s\tcommon_voice_en_0.mp3\t\xff\t\ten\t",
        b"s\tcommon_voice_en_0.mp3\t\t\ten\t",
        b"s\tgone.mp3\tHi.\t\ten\t",
        b"s\t\tHi.\t\ten\t",
        b"s\tcommon_voice_en_0.mp3\tHi.\t\ten\t\r",
    ]
    (tmp_path / "set/train.tsv").write_bytes(TABLE.encode() + b"\r\n" + b"\n".join(lines))
    found = read_all(made(tmp_path / "set", "common_voice"))
    assert told(found) == [
        "wrong number of fields",
        "not UTF-8",
        "empty text",
        "missing media",
        "missing media",
        "item",
    ]
    assert "train.tsv#4" in found[2].detail


def test_a_folder_without_transcripts_is_named(tmp_path: Path) -> None:
    common_voice(tmp_path / "set")
    for layout in ("librispeech", "libritts"):
        with pytest.raises(SourceError, match="there is no such"):
            list(made(tmp_path / "set", layout).partitions())
    (tmp_path / "set/train.tsv").write_text("a\tb\n")
    with pytest.raises(SourceError, match="no column path, sentence"):
        list(made(tmp_path / "set", "common_voice").partitions())
