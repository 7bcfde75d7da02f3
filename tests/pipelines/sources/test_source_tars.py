"""Tars: one tar is one partition; damage costs what stands behind it and is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.errors import RecipeError, SourceError, StorageError
from source_checks import read_all, source_of, texts, told, write_tar

CAPTION: dict[str, Any] = {"kind": "tars", "layout": "img2dataset", "tasks": ["caption", "t2i"]}


def pictures(count: int, first: int = 0) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for i in range(first, first + count):
        members |= {f"{i:09d}.jpg": b"picture %d" % i, f"{i:09d}.txt": b"caption %d" % i}
        members[f"{i:09d}.json"] = json.dumps({"caption": f"caption {i}", "url": "x"}).encode()
    return members


def test_img2dataset_gives_both_tasks_of_each_picture(tmp_path: Path) -> None:
    write_tar(tmp_path / "00001.tar", pictures(2, first=2))
    write_tar(tmp_path / "00000.tar", pictures(2))
    found = read_all(source_of(tmp_path, path=str(tmp_path), **CAPTION))
    assert [o.key for o in found] == [
        f"set-{tar:05d}-{row:06d}-{task}"
        for tar in range(2)
        for row in range(2)
        for task in ("caption", "t2i")
    ]
    caption, t2i = found[4:6]
    assert texts(caption)[-1] == "assistant: caption 2"
    assert texts(t2i) == [
        "user: Generate an image based on the provided text description.\ncaption 2",
        "assistant: <|image|>",
    ]
    assert isinstance(t2i, MediaRecord)
    assert t2i.images == (b"picture 2",)
    assert t2i.record.images == ("000000002.jpg",)
    assert t2i.record.provenance["origin"] == "00001.tar#000000002"


def test_blip3o_has_no_metadata(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.jpg": b"p", "1.txt": b"c", "2.txt": b"no picture"})
    settings = CAPTION | {"layout": "blip3o", "tasks": ["t2i"]}
    found = read_all(source_of(tmp_path, path=str(tmp_path), **settings))
    assert told(found) == ["item", "missing member"]
    assert found[1].key == "set-00000-000001"


def test_emilia_keeps_speaker_duration_and_language(tmp_path: Path) -> None:
    about = {"id": "EN_1", "text": " Hello there.", "duration": 1.5, "speaker": "EN_S1"}
    about |= {"language": "en", "dnsmos": 3.4, "wav": "EN_1/mp3/EN_1.mp3"}
    members = {"EN_1.json": json.dumps(about).encode(), "EN_1.mp3": b"sound"}
    members |= {"EN_2.json": b"{", "EN_2.mp3": b"s", "EN_3.json": b"\xff", "EN_3.mp3": b"s"}
    members |= {"EN_4.mp3": b"s", "EN_5.json": b"[]", "EN_5.mp3": b"s"}
    write_tar(tmp_path / "EN-B000000.tar", members)
    settings = {"kind": "tars", "layout": "emilia", "tasks": ["tts"], "license": "CC-BY-NC-4.0"}
    found = read_all(source_of(tmp_path, path=str(tmp_path), **settings))
    assert told(found) == ["item", "not JSON", "not UTF-8", "missing member", "missing text"]
    assert texts(found[0]) == [
        "user: Convert the text to speech.\nHello there.",
        "assistant: <|audio|>",
    ]
    assert isinstance(found[0], MediaRecord)
    assert found[0].record.quality == {"dnsmos": 3.4, "duration_s": 1.5}
    assert found[0].record.provenance == {"origin": "EN_1", "speaker": "EN_S1"}


def test_a_custom_layout_names_its_members(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.wav": b"sound", "1.lab": b"hello", "2.wav": b"sound"})
    settings: dict[str, Any] = {"kind": "tars", "layout": "custom", "tasks": ["asr"]}
    settings |= {"members": {"sound": ["flac", "wav"], "words": ["lab"]}}
    settings |= {"columns": {"audio": "sound", "text": "words"}, "path": str(tmp_path)}
    found = read_all(source_of(tmp_path, **settings))
    assert told(found) == ["item", "missing text"]
    assert texts(found[0])[-1] == "assistant: hello"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "custom"}, "members belong to layout custom"),
        ({"members": {"a": ["b"]}}, "members belong to layout custom"),
        ({"layout": "custom", "members": {"a": ["b"]}}, "needs columns"),
        ({"tasks": ["asr"]}, r"needs columns\.audio"),
        ({"records_per_shard": 10}, "unknown key"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        source_of(tmp_path, path="x.tar", **CAPTION | change)


RECORD = {
    "messages": [
        {"role": "user", "content": "<|audio|>\n<|image|>"},
        {"role": "assistant", "content": "Red."},
    ],
    "images": ["a.png"],
    "audios": ["q.flac"],
    "task": "svqa",
    "provenance": {"voice": "slt"},
}


def ours(key: str, **changes: Any) -> dict[str, bytes]:
    record = json.dumps(RECORD | changes).encode()
    return {f"{key}.json": record, f"{key}.image0.png": b"p", f"{key}.audio0.flac": b"s"}


def test_our_own_tars_bring_whole_records(tmp_path: Path) -> None:
    members = ours("k0") | ours("k1", source="emoji", provenance={"origin": "1F34E"})
    write_tar(tmp_path / "a.tar", members)
    first, second = read_all(source_of(tmp_path, kind="media_tars", path=str(tmp_path)))
    assert isinstance(first, MediaRecord)
    assert isinstance(second, MediaRecord)
    assert (first.images, first.audios) == ((b"p",), (b"s",))
    assert first.record.task == "svqa"
    assert first.record.provenance == {"origin": "a.tar#k0", "voice": "slt"}
    assert first.record.source == "set"
    assert second.record.provenance == {"origin": "1F34E"}
    assert second.record.source == "emoji"


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"k.json": b"{"}, "invalid record"),
        ({"k.json": b"\xff"}, "invalid record"),
        ({"k.json": json.dumps(RECORD).encode()}, "missing media"),
        (ours("k") | {"k.image0.png": b""}, "empty media"),
        (ours("k", audios=[]), "placeholder mismatch"),
        ({"k.image0.png": b"p"}, "missing member"),
    ],
)
def test_a_broken_sample_is_a_reject(
    tmp_path: Path, members: dict[str, bytes], reason: str
) -> None:
    write_tar(tmp_path / "a.tar", ours("a") | members | ours("z"))
    found = read_all(source_of(tmp_path, kind="media_tars", path=str(tmp_path)))
    assert told(found) == ["item", reason, "item"]
    assert found[1].key == "set-00000-000001"
    assert "a.tar#k" in found[1].detail  # type: ignore[union-attr]


@given(st.integers(1, 10_000))
def test_a_cut_tar_gives_what_is_whole_and_one_reject_that_names_it(
    tmp_path_factory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    write_tar(folder / "a.tar", pictures(5))
    data = (folder / "a.tar").read_bytes()
    whole = read_all(source_of(folder, path=f"{folder}/a.tar", **CAPTION))
    assert told(whole) == ["item"] * 10
    (folder / "a.tar").write_bytes(data[: -min(cut, len(data) - 1)])
    found = read_all(source_of(folder, path=f"{folder}/a.tar", **CAPTION))
    *before, last, twin = found
    if isinstance(twin, MediaRecord):  # only padding behind the end mark was lost
        assert found == whole
        return
    assert before == whole[: len(before)]
    for reject, task in ((last, "caption"), (twin, "t2i")):
        assert isinstance(reject, Reject)
        assert reject.reason == "damaged archive"
        assert reject.key == f"set-00000-{len(before) // 2:06d}-{task}"
        assert "a.tar" in reject.detail
        assert "member" in reject.detail


def test_compressed_tars_are_read_too(tmp_path: Path) -> None:
    write_tar(tmp_path / "plain", pictures(2))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
    assert told(read_all(source_of(tmp_path, path=str(tmp_path), **CAPTION))) == ["item"] * 4


@pytest.mark.parametrize("limit", [1, 4, 5, 99])
def test_a_limit_counts_over_tars(tmp_path: Path, limit: int) -> None:
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", pictures(2))
    settings = CAPTION | {"path": str(tmp_path)}
    whole = read_all(source_of(tmp_path, **settings))
    assert len(whole) == 12
    assert read_all(source_of(tmp_path, limit=limit, **settings)) == whole[:limit]


def test_a_tar_that_is_gone_or_refused_is_raised(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", pictures(2))
    source = source_of(tmp_path, path=str(tmp_path), **CAPTION)
    (partition,) = source.partitions()
    (tmp_path / "a.tar").unlink()
    with pytest.raises(SourceError, match="is gone"):
        list(source.read(partition))
    (tmp_path / "a.tar").symlink_to(tmp_path / "a.tar")
    with pytest.raises(StorageError, match="symbolic links"):
        list(source.read(partition))
