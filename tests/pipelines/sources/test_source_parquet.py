"""Parquet: ranges of rows that respect row groups; nothing else of the file is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.errors import SourceError, StorageError
from omni_diffusion.pipelines.sources.parquet import row_ranges
from source_checks import read_all, source_of, texts, told

ASR: dict[str, Any] = {"kind": "parquet", "tasks": ["asr"]}
ASR["columns"] = {"text": "text", "audio": "audio", "id": "id"}
PLAIN: dict[str, Any] = {"compression": "none", "use_dictionary": False}
AUDIO = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def table(count: int, first: int = 0) -> pa.Table:
    rows = range(first, first + count)
    return pa.table(
        {
            "id": [f"id{i}" for i in rows],
            "unused": [b"x" * 1000] * count,
            "audio": pa.array([{"bytes": b"s%d" % i, "path": f"{i}.flac"} for i in rows], AUDIO),
            "text": [f"text {i}" for i in rows],
        }
    )


def write(path: Path, count: int, row_group_size: int = 10, first: int = 0) -> None:
    pq.write_table(table(count, first), path, row_group_size=row_group_size)


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 25))
def test_ranges_cover_the_file_once_and_cut_no_group_that_fits(
    groups: list[int], at_most: int
) -> None:
    ranges = list(row_ranges(groups, at_most))
    assert [row for a, b in ranges for row in range(a, b)] == list(range(sum(groups)))
    assert all(0 < b - a <= at_most for a, b in ranges)
    cuts, first = {a for a, _ in ranges}, 0
    for rows in groups:
        if rows <= at_most:
            assert not cuts & set(range(first + 1, first + rows))
        first += rows


@pytest.mark.parametrize("records_per_shard", [1, 7, 10, 25, 1000])
def test_every_row_comes_out_once_in_order(tmp_path: Path, records_per_shard: int) -> None:
    write(tmp_path / "b.parquet", 35, first=40)
    write(tmp_path / "a.parquet", 40)
    source = source_of(tmp_path, path=str(tmp_path), records_per_shard=records_per_shard, **ASR)
    found = read_all(source)
    assert [texts(o)[-1] for o in found] == [f"assistant: text {i}" for i in range(75)]
    items = [o for o in found if isinstance(o, MediaRecord)]
    assert [i.audios for i in items] == [(b"s%d" % n,) for n in range(75)]
    assert items[41].record.provenance["origin"] == "id41"
    assert items[41].record.audios == ("41.flac",)
    sizes = [p.rows for p in source.partitions()]
    assert all(rows is not None and 0 < rows <= records_per_shard for rows in sizes)


def test_partitions_are_the_same_wherever_the_data_lies(tmp_path: Path) -> None:
    """Records do not depend on the folder: the same bytes on another disk give the same corpus."""
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.parquet", 12)
    one, other = (
        read_all(source_of(tmp_path, path=f"{tmp_path}/{f}", **ASR)) for f in ("one", "other")
    )
    assert one == other


@pytest.mark.parametrize("limit", [1, 9, 10, 23, 99])
def test_a_limit_takes_the_first_records(tmp_path: Path, limit: int) -> None:
    write(tmp_path / "a.parquet", 25)
    settings = ASR | {"path": str(tmp_path), "tasks": ["asr", "tts"], "records_per_shard": 8}
    whole = read_all(source_of(tmp_path, **settings))
    assert read_all(source_of(tmp_path, limit=limit, **settings)) == whole[:limit]


def test_only_the_wanted_columns_and_row_groups_are_read(tmp_path: Path, monkeypatch) -> None:
    pq.write_table(table(1000), tmp_path / "a.parquet", row_group_size=100, **PLAIN)
    data = (tmp_path / "a.parquet").read_bytes()
    memory = MemoryFileSystem()
    memory.pipe("/columns/a.parquet", data)
    source = source_of(tmp_path, path="memory://columns", records_per_shard=100, **ASR)
    partition = list(source.partitions())[3]
    ranges: list[tuple[int, int]] = []
    cat = MemoryFileSystem.cat_file

    def noted(self: MemoryFileSystem, path: str, start: int, end: int) -> bytes:
        ranges.append((start, end))
        return cat(self, path, start, end)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", noted)
    assert told(list(source.read(partition))) == ["item"] * 100
    group = pq.read_metadata(tmp_path / "a.parquet").row_group(3)
    chunks = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    start = chunks["unused"].data_page_offset
    unused = range(start, start + chunks["unused"].total_compressed_size)
    footer = len(data) - (64 << 10)  # pyarrow's first guess of it
    read = {byte for a, b in ranges for byte in range(a, b) if byte < footer}
    assert read
    assert not read & set(unused)
    wanted = sum(c.total_compressed_size for n, c in chunks.items() if n != "unused")
    assert len(read) <= wanted
    assert partition.size == pytest.approx(wanted, rel=0.1)


def test_invalid_utf8_costs_its_row_only(tmp_path: Path) -> None:
    raw = pa.array([b"one", b"\xff", b"three"]).view(pa.string())
    pq.write_table(table(3).set_column(3, "text", raw), tmp_path / "a.parquet")
    found = read_all(source_of(tmp_path, path=str(tmp_path), **ASR))
    assert told(found) == ["item", "not UTF-8", "item"]
    assert found[1].key == "set-00000-000001"


def test_nulls_are_rejects(tmp_path: Path) -> None:
    nulls = table(3).set_column(3, "text", pa.array(["one", None, "three"]))
    audio = pa.array([None, {"bytes": b"s", "path": None}, {"bytes": None, "path": None}], AUDIO)
    pq.write_table(nulls.set_column(2, "audio", audio), tmp_path / "a.parquet")
    found = read_all(source_of(tmp_path, path=str(tmp_path), **ASR))
    assert told(found) == ["missing audio", "missing text", "missing audio"]


def test_a_damaged_row_group_costs_its_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(table(30), path, row_group_size=10, write_page_checksum=True, **PLAIN)
    column = pq.read_metadata(path).row_group(1).column(2)
    assert column.path_in_schema == "audio.bytes"
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    found = read_all(source_of(tmp_path, path=str(tmp_path), **ASR))
    assert told(found) == ["item"] * 10 + ["damaged row group"] * 10 + ["item"] * 10
    assert [o.key for o in found] == [f"set-00000-{i:06d}" for i in range(30)]


def test_a_store_that_fails_while_reading_is_raised(tmp_path: Path, monkeypatch) -> None:
    """Not taken for damage: reading again may succeed."""
    write(tmp_path / "a.parquet", 30)
    data = (tmp_path / "a.parquet").read_bytes()
    memory = MemoryFileSystem()
    memory.pipe("/fails/a.parquet", data)
    source = source_of(tmp_path, path="memory://fails", **ASR)
    (partition,) = source.partitions()
    column = pq.read_metadata(tmp_path / "a.parquet").row_group(1).column(0)

    cat = MemoryFileSystem.cat_file

    def failing(self: MemoryFileSystem, path: str, start: int, end: int) -> bytes:
        if start <= column.data_page_offset < end < len(data) / 2:
            raise OSError("the line is dead")
        return cat(self, path, start, end)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", failing)
    with pytest.raises(StorageError, match="the line is dead"):
        list(source.read(partition))


def test_a_missing_column_is_named_when_the_job_is_planned(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 3)
    settings = ASR | {"columns": {"text": "sentence", "audio": "audio"}}
    with pytest.raises(SourceError, match="no column sentence; it has id, unused, audio, text"):
        list(source_of(tmp_path, path=str(tmp_path), **settings).partitions())


def test_a_file_that_is_no_parquet_is_named_when_the_job_is_planned(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 30)
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"b\.parquet: not a whole parquet file"):
        list(source_of(tmp_path, path=str(tmp_path), **ASR).partitions())


def test_a_file_that_changes_after_planning_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 30)
    source = source_of(tmp_path, path=str(tmp_path), **ASR)
    (partition,) = source.partitions()
    write(tmp_path / "a.parquet", 31)
    with pytest.raises(SourceError, match=r"a\.parquet: had"):
        list(source.read(partition))


def test_an_empty_file_has_no_partition(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 0)
    write(tmp_path / "b.parquet", 1)
    assert told(read_all(source_of(tmp_path, path=str(tmp_path), **ASR))) == ["item"]
