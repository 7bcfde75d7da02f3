"""All sidecars in one Parquet file, `index.parquet`: what the loader and the audit read.

Rows are ordered by (shard, offset). Compaction streams: it holds one row group at a time, never
the whole corpus.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from omni_diffusion.corpus.manifest import Manifest, write_manifest
from omni_diffusion.corpus.rejects import rejects_name
from omni_diffusion.corpus.sidecar import (
    LENGTHS,
    PARQUET_SETTINGS,
    SCHEMA,
    ShardInfo,
    Sidecar,
    check_fingerprints,
    read_sidecar,
    read_table,
    sidecar_name,
    tar_name,
)
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError

INDEX = "index.parquet"
SIDECARS = "omni_diffusion.sidecars"
"""Metadata of the index: JSON object, shard number to the CRC-32 of its sidecar file."""

ROW_GROUP = 122_880
"""Rows of a row group: DuckDB's own unit, so that its threads can share the work."""

_READERS = 8
_TABLES_HELD = 256

_SIDECAR = re.compile(r"shards/(\d{5,})\.parquet")
_TAR = re.compile(r"shards/(\d{5,})\.tar")


def shard_numbers(storage: Storage, *, with_tar: bool = True) -> list[int]:
    """Numbers of all shards that exist (have a sidecar), ascending.

    Args:
        storage: the corpus root.
        with_tar: refuse a sidecar whose tar is gone.

    Raises:
        CorpusError: a sidecar without its tar.
    """
    numbers = _numbers_of(storage, _SIDECAR)
    for number in set(numbers) - set(tar_numbers(storage)) if with_tar else ():
        reason = f"missing, though {sidecar_name(number)} says that it is complete"
        raise CorpusError(storage.path(tar_name(number)), reason)
    return numbers


def tar_numbers(storage: Storage) -> list[int]:
    """Numbers of all tars, with or without a sidecar, ascending."""
    return _numbers_of(storage, _TAR)


def _check_rejects(storage: Storage, infos: Iterable[ShardInfo]) -> None:
    there = {entry.name for entry in storage.list("rejects")}
    for info in infos:
        if info.rejects and (name := rejects_name(info.number)) not in there:
            sidecar = sidecar_name(info.number)
            reason = f"missing, though {sidecar} counts {info.rejects} rejects; remove {sidecar} "
            raise CorpusError(storage.path(name), f"{reason}and run the job again")


def _numbers_of(storage: Storage, pattern: re.Pattern[str]) -> list[int]:
    names = (entry.name for entry in storage.list("shards"))
    return sorted(int(match[1]) for name in names if (match := pattern.fullmatch(name)))


def compact(
    storage: Storage,
    *,
    recipe_digest: str = "",
    on_shard: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write `index.parquet` and `corpus.json` from the sidecars.

    Args:
        storage: the corpus root.
        recipe_digest: written into the manifest.
        on_shard: called with (shards done, shards in all), for a progress bar.

    Returns:
        The manifest that was written.

    Raises:
        CorpusError: a damaged sidecar, one key in two shards, or a shard without its rejects.
        FingerprintError: shards that were made with different tokenizers.
    """
    numbers = shard_numbers(storage)
    sidecars: list[Sidecar] = []
    totals: Counter[str] = Counter()
    keys = KeySet()

    def checked() -> Iterator[pa.Table]:
        for number, sidecar in zip(numbers, read_sidecars(storage, numbers), strict=True):
            if sidecars:
                paths = [storage.path(sidecar_name(n)) for n in (numbers[0], number)]
                theirs = sidecars[0].info.fingerprints
                check_fingerprints(theirs, sidecar.info.fingerprints, *paths)
            keys.add(sidecar.table["key"].to_pylist(), number)
            totals.update(lengths_of(sidecar.table))
            sidecars.append(replace(sidecar, table=None))
            yield sidecar.table
            if on_shard:
                on_shard(len(sidecars), len(numbers))

    with storage.temporary(INDEX) as path:
        write_row_groups(checked(), path, lambda: {s.info.number: s.crc for s in sidecars})
        if twice := keys.duplicate(storage):
            raise CorpusError(storage.root, twice)
        _check_rejects(storage, (sidecar.info for sidecar in sidecars))
        index_digest = file_digest(path)
        storage.publish(path, INDEX, replace=True)
    infos = [sidecar.info for sidecar in sidecars]
    manifest = Manifest(
        fingerprints=dict(infos[0].fingerprints) if infos else {},
        recipe_digest=recipe_digest,
        shards=len(infos),
        rows=sum(info.rows for info in infos),
        rejects=sum(info.rejects for info in infos),
        lengths={name: totals[name] for name in LENGTHS},
        digest=corpus_digest(infos),
        index_digest=index_digest,
    )
    write_manifest(storage, manifest)
    return manifest


def read_sidecars(storage: Storage, numbers: Sequence[int]) -> Iterator[Sidecar]:
    """Sidecars in the order of their numbers, some of them read ahead: a store answers slowly.

    Raises:
        CorpusError: one is absent or damaged.
    """
    ahead = iter(numbers)
    with ThreadPoolExecutor(_READERS) as threads:
        waiting = deque(
            threads.submit(read_sidecar, storage, n) for n in islice(ahead, 2 * _READERS)
        )
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(threads.submit(read_sidecar, storage, n) for n in islice(ahead, 1))


def write_row_groups(
    tables: Iterator[pa.Table], path: Path, crcs: Callable[[], Mapping[int, int]]
) -> None:
    """Write tables one after another as row groups of `ROW_GROUP` rows.

    Args:
        tables: with the columns of `SCHEMA`.
        path: the file to write.
        crcs: asked at the end for the CRC-32 of every sidecar, by its number; they are kept in the
            file's metadata, so that `verify` can say which sidecar was changed.
    """
    with pq.ParquetWriter(path, SCHEMA, **PARQUET_SETTINGS) as writer:
        waiting: list[pa.Table] = []
        rows = 0
        for table in tables:
            waiting.append(table)
            rows += table.num_rows
            if len(waiting) == _TABLES_HELD:
                # A table of one row takes tens of kilobytes; joined, a few hundred bytes a row.
                waiting = [pa.concat_tables(waiting).combine_chunks()]
            while rows >= ROW_GROUP:
                joined = pa.concat_tables(waiting)
                writer.write_table(joined.slice(0, ROW_GROUP), row_group_size=ROW_GROUP)
                waiting, rows = [joined.slice(ROW_GROUP)], rows - ROW_GROUP
        if rows:
            writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP)
        writer.add_key_value_metadata({SIDECARS: json.dumps(crcs())})


def file_digest(path: Path) -> str:
    """SHA-256 of a local file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def corpus_digest(infos: Sequence[ShardInfo]) -> str:
    """SHA-256 over `number digest` lines of all shards, in order."""
    lines = "".join(f"{info.number} {info.digest}\n" for info in infos)
    return hashlib.sha256(lines.encode()).hexdigest()


class KeySet:
    """Finds a key that stands in two shards, at 12 bytes a key."""

    def __init__(self) -> None:
        self._hashes: list[np.ndarray[Any, np.dtype[np.uint64]]] = []
        self._shards: list[tuple[int, int]] = []

    def add(self, keys: list[str], shard: int) -> None:
        """Note the keys of one shard."""
        hashes = np.fromiter(
            (xxhash.xxh3_64_intdigest(key.encode()) for key in keys), np.uint64, len(keys)
        )
        self._hashes.append(hashes)
        self._shards.append((shard, len(keys)))

    def duplicate(self, storage: Storage) -> str | None:
        """One key that stands twice and where, or None."""
        if not self._hashes:
            return None
        hashes = np.concatenate(self._hashes)
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        owner = np.repeat(*np.array(self._shards).reshape(-1, 2).T)
        for at in same.tolist():
            shards = sorted({int(owner[order[at]]), int(owner[order[at + 1]])})
            lists = [read_table(storage, sidecar_name(n), ["key"])["key"] for n in shards]
            seen = Counter(key for keys in lists for key in keys.to_pylist())
            if twice := [key for key, count in seen.items() if count > 1]:
                return f"key {twice[0]!r} stands twice, in shards {shards}"
        return None


class Index:
    """The columns that reading needs, in memory, and the others when asked.

    Attributes:
        shard: int32 [rows].
        offset: int64 [rows], of the payload in its tar.
        size: int32 [rows].
        crc: uint32 [rows].
    """

    def __init__(self, storage: Storage) -> None:
        """Read `index.parquet`.

        Raises:
            CorpusError: absent, damaged, or of another schema.
        """
        self._storage = storage
        self._columns: dict[str, pa.Array] = {}
        columns = read_table(storage, INDEX, ["key", "shard", "offset", "size", "crc"])
        if columns.schema.types != [SCHEMA.field(name).type for name in columns.schema.names]:
            raise CorpusError(storage.path(INDEX), "has other columns; run verify --rebuild-index")
        self._columns["key"] = columns["key"].combine_chunks()
        # Through DLPack: `to_numpy` imports pandas, which takes longer than all the rest.
        self.shard, self.offset, self.size, self.crc = (
            np.from_dlpack(columns[name].combine_chunks())
            for name in ("shard", "offset", "size", "crc")
        )

    def __len__(self) -> int:
        return len(self.shard)

    def column(self, name: str) -> pa.Array:
        """Any column of `sidecar.SCHEMA`, read once."""
        if name not in self._columns:
            self._columns[name] = read_table(self._storage, INDEX, [name])[name].combine_chunks()
        return self._columns[name]

    def keys(self, rows: np.ndarray[Any, Any]) -> list[str]:
        """Keys of some rows."""
        _, ends, text = self.column("key").buffers()
        places = np.frombuffer(ends, np.int32)
        starts, stops = places[rows].tolist(), places[rows + 1].tolist()
        view = memoryview(text or b"")
        return [str(view[a:b], "ascii") for a, b in zip(starts, stops, strict=True)]

    def find(self, key: str) -> int:
        """Row of a key.

        Raises:
            KeyError: no sample has this key.
        """
        import pyarrow.compute as pc

        row = int(pc.index(self.column("key"), key).as_py())
        if row < 0:
            raise KeyError(key)
        return row


def lengths_of(table: pa.Table) -> Mapping[str, int]:
    """Sum of every length column."""
    return {name: _total(table[name]) for name in LENGTHS}


def _total(column: pa.ChunkedArray) -> int:
    return int(column.to_numpy().sum(dtype=np.int64)) if len(column) else 0
