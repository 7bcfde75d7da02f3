"""JSON lines: byte ranges of whole lines; each worker reads its range only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import SourceError
from omni_diffusion.pipelines.sources import lines
from omni_diffusion.pipelines.sources.jsonl import ConversationsSource
from omni_diffusion.pipelines.sources.lines import cut_lines, read_lines
from source_checks import Outcome, read_all, source_of, texts, told, write_jsonl

TEXT: dict[str, Any] = {"kind": "jsonl", "tasks": ["text"]}
TEXT["columns"] = {"question": "q", "answer": "a"}


def rows(count: int) -> list[dict[str, str]]:
    return [{"q": f"question {i}", "a": f"answer {i}"} for i in range(count)]


@given(
    st.lists(st.sampled_from([b"{}", b"x", b"\r", b"", b" ", b"long line"]), max_size=30),
    st.booleans(),
    st.integers(1, 7),
    st.integers(1, 9),
)
def test_ranges_hold_every_line_once_whatever_the_buffers(
    tmp_path_factory, content: list[bytes], ends: bool, at_most: int, chunk: int
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    data = b"\n".join(content) + (b"\n" if ends else b"")
    (folder / "f").write_bytes(data)
    expected = [
        (number, line.removesuffix(b"\r"))
        for number, line in enumerate(data.split(b"\n"), 1)
        if line.removesuffix(b"\r")
    ]
    storage = Storage(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_CHUNK", chunk)
        ranges = list(cut_lines(storage, "f", at_most))
    found = [list(read_lines(storage, "f", r.start, r.end, r.line)) for r in ranges]
    assert [line for part in found for line in part] == expected
    assert [len(part) for part in found] == [r.rows for r in ranges]
    assert all(r.rows == at_most for r in ranges[:-1])


def test_lines_of_several_files_come_out_in_order(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl", rows(12)[7:])
    write_jsonl(tmp_path / "a.jsonl", rows(7))
    found = read_all(source_of(tmp_path, path=str(tmp_path), records_per_shard=3, **TEXT))
    assert [texts(o) for o in found] == [
        [f"user: {r['q']}", f"assistant: {r['a']}"] for r in rows(12)
    ]
    assert [o.record.provenance["origin"] for o in found if isinstance(o, MediaRecord)][6:8] == [
        "a.jsonl#7",
        "b.jsonl#1",
    ]


def test_a_worker_reads_its_range_only(tmp_path: Path, monkeypatch) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows(50))
    source = source_of(tmp_path, path=str(tmp_path), records_per_shard=10, **TEXT)
    partition = list(source.partitions())[2]
    asked: list[tuple[int | None, int | None]] = []
    read = Storage.read

    def noted(self: Storage, name: str, start: int | None = None, end: int | None = None) -> bytes:
        asked.append((start, end))
        return read(self, name, start, end)

    monkeypatch.setattr(Storage, "read", noted)
    found = list(source.read(partition))
    assert texts(found[0])[0] == "user: question 20"
    assert asked == [(partition.spec["start"], partition.spec["end"])]
    assert partition.size == partition.spec["end"] - partition.spec["start"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"q": "cut o', "not JSON"),
        (b'{"q": NaN, "a": "x"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"   ", "not JSON"),
        (b'{"q": "\xff", "a": "x"}', "not UTF-8"),
        (b'["q", "a"]', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"q": "x"}', "missing answer"),
    ],
)
def test_a_broken_line_is_a_reject_with_its_number(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    good = rows(2)
    write_jsonl(tmp_path / "a.jsonl", [good[0], b"", line, b"\r", good[1]])
    found = read_all(source_of(tmp_path, path=str(tmp_path), **TEXT))
    assert told(found) == ["item", reason, "item"]
    assert found[1].key == "set-00000-000001"
    assert "a.jsonl#3" in found[1].detail  # type: ignore[union-attr]


def test_a_file_without_line_ends_is_a_reject_and_no_memory_hog(
    tmp_path: Path, monkeypatch
) -> None:
    """What a JSON array of a whole data set looks like."""
    monkeypatch.setattr("omni_diffusion.pipelines.sources.jsonl._MAX_LINE_BYTES", 100)
    (tmp_path / "a.jsonl").write_text(json.dumps(rows(50)))
    assert told(read_all(source_of(tmp_path, path=str(tmp_path), **TEXT))) == ["line too long"]


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(rows(1)[0]).encode())
    assert told(read_all(source_of(tmp_path, path=str(tmp_path), **TEXT))) == ["item"]


@pytest.mark.parametrize("limit", [1, 6, 7, 40])
def test_a_limit_takes_the_first_records_of_all_lines(tmp_path: Path, limit: int) -> None:
    write_jsonl(tmp_path / "a.jsonl", [*rows(5), b"broken", *rows(5)])
    settings = TEXT | {"path": str(tmp_path), "records_per_shard": 4}
    whole = read_all(source_of(tmp_path, **settings))
    assert read_all(source_of(tmp_path, limit=limit, **settings)) == whole[:limit]


def test_a_file_that_grows_after_planning_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows(5))
    source = source_of(tmp_path, path=str(tmp_path), **TEXT)
    (partition,) = source.partitions()
    write_jsonl(tmp_path / "a.jsonl", rows(6))
    with pytest.raises(SourceError, match="when the job was planned"):
        list(source.read(partition))


def test_compressed_lines_are_refused_when_the_job_is_planned(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"x")
    with pytest.raises(SourceError, match="unpack it first"):
        list(source_of(tmp_path, path=f"{tmp_path}/a.jsonl.gz", **TEXT).partitions())


PUBLISHED = {
    "messages": [
        {"role": "system", "content": "Please response the input audio."},
        {"role": "user", "content": "<|audio|>"},
        {"role": "assistant", "content": "Yes.\n<|audio|>"},
    ],
    "audios": ["wav/q.wav", "wav/a.wav"],
}


def published(folder: Path, *records: object) -> list[Outcome]:
    (folder / "wav").mkdir(exist_ok=True)
    (folder / "wav" / "q.wav").write_bytes(b"question")
    (folder / "wav" / "a.wav").write_bytes(b"answer")
    write_jsonl(folder / "a.jsonl", records)
    settings = {"path": f"{folder}/a.jsonl", "media_root": str(folder), "language": "en"}
    source = source_of(folder, kind="conversations", **settings)
    assert isinstance(source, ConversationsSource)
    return read_all(source)


def test_published_conversations_are_taken_as_they_are(tmp_path: Path) -> None:
    told_itself = PUBLISHED | {"source": "theirs", "language": "zh", "task": "sqa", "mood": "good"}
    first, second = published(tmp_path, PUBLISHED, told_itself)
    assert isinstance(first, MediaRecord)
    assert isinstance(second, MediaRecord)
    assert first.audios == (b"question", b"answer")
    assert first.record.audios == ("wav/q.wav", "wav/a.wav")
    assert texts(first)[1:] == ["user: <|audio|>", "assistant: Yes.\n<|audio|>"]
    assert (first.record.source, first.record.language) == ("set", "en")
    assert first.record.provenance == {"origin": "a.jsonl#1"}
    assert (second.record.source, second.record.language) == ("theirs", "zh")
    assert second.record.extra == {"mood": "good"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"audios": ["wav/q.wav"]}, "placeholder mismatch"),
        ({"audios": ["wav/q.wav", "wav/gone.wav"]}, "missing media"),
        ({"audios": ["wav/q.wav", "wav/empty.wav"]}, "empty media"),
        ({"audios": ["wav/q.wav", "../../secret"]}, "media outside its root"),
        ({"audios": "wav/q.wav"}, "invalid audios"),
        ({"audios": ["wav/q.wav", ""]}, "invalid audios"),
        ({"messages": []}, "invalid messages"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "invalid messages"),
        ({"task": "No Task"}, "invalid task"),
    ],
)
def test_a_broken_conversation_is_a_reject_with_its_line(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    (tmp_path / "wav").mkdir()
    (tmp_path / "wav" / "empty.wav").write_bytes(b"")
    found = published(tmp_path, PUBLISHED, PUBLISHED | change, PUBLISHED)
    assert told(found) == ["item", reason, "item"]
    assert "a.jsonl#2" in found[1].detail  # type: ignore[union-attr]


def test_conversations_without_media_need_no_root(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": "Hi"}]}, b"{"])
    settings: dict[str, Any] = {"kind": "conversations", "path": f"{tmp_path}/a.jsonl"}
    assert told(read_all(source_of(tmp_path, **settings))) == ["item", "not JSON"]
    write_jsonl(tmp_path / "a.jsonl", [PUBLISHED])
    with pytest.raises(SourceError, match="no media_root"):
        read_all(source_of(tmp_path, **settings))
