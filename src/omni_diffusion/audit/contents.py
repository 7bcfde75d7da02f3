"""What stands in the tars and not in the index: messages, media, counts of codes.

A pass over a shard gives three small tables. They are kept in a cache folder of the auditor, never
in the corpus, under a name that follows from the rows they were made from; so each shard is read
once, whoever refers to it, and a pass that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from omni_diffusion.corpus.record import AUDIO, IMAGE, ROLES
from omni_diffusion.corpus.sample import STREAMS, Sample, decode_sample
from omni_diffusion.corpus.shard import ShardReader
from omni_diffusion.corpus.sidecar import read_table, tar_name, write_parquet
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import OmniError, RecordError

VERSION = 1
"""Of the tables below; part of their names in the cache."""

_MESSAGES = pa.schema(
    [
        *(pa.field(name, kind) for name, kind in (("key", pa.string()), ("shard", pa.int32()))),
        *(pa.field(name, kind) for name, kind in (("message", pa.int32()), ("role", pa.string()))),
        pa.field("content", pa.string()),
        *(pa.field(name, pa.int32()) for name in ("images", "audios")),
    ]
)
_MEDIA = pa.schema(
    [
        *(pa.field(name, kind) for name, kind in (("key", pa.string()), ("shard", pa.int32()))),
        *(pa.field(name, pa.int32()) for name in ("span", "message")),
        *(pa.field(name, pa.string()) for name in ("role", "kind", "stream")),
        *(pa.field(name, pa.int64()) for name in ("start", "length", "height", "width")),
        pa.field("name", pa.string()),
    ]
)
_CODES = pa.schema(
    [
        pa.field("stream", pa.string()),
        pa.field("code", pa.int32()),
        pa.field("count", pa.int64()),
        pa.field("shards", pa.int32()),
    ]
)
SCHEMAS = {"messages": _MESSAGES, "media": _MEDIA, "codes": _CODES}
Counts = np.ndarray[Any, np.dtype[np.int64]]
CODE_STREAMS = ("image256", "image512", "speech")


@dataclass
class Contents:
    """The tables of one shard while they are made.

    Attributes:
        faults: why samples are missing from them.
    """

    shard: int
    messages: list[tuple[Any, ...]] = field(default_factory=list)
    media: list[tuple[Any, ...]] = field(default_factory=list)
    codes: dict[str, Counts] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        """Take one sample in.

        Raises:
            RecordError: its record is not JSON of the contract's form.
        """
        try:
            record = json.loads(bytes(sample.record_json))
            turns = [(m["role"], m["content"]) for m in record["messages"]]
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(sample.key, "", f"is not a record: {error}") from None
        for i, (role, content) in enumerate(turns):
            counts = content.count(IMAGE), content.count(AUDIO)
            self.messages.append((sample.key, self.shard, i, role, content, *counts))
        self._add_media(sample, record)
        for name in CODE_STREAMS:
            if (stream := sample.streams.get(name)) is not None:
                self._count(name, stream)

    def _add_media(self, sample: Sample, record: dict[str, Any]) -> None:
        names = {kind: iter(record.get(f"{kind}s", ())) for kind in ("image", "audio")}
        for i, (message, role, stream, start, length, height) in enumerate(sample.spans.tolist()):
            name = STREAMS[stream].name
            if name == "text":
                continue
            kind = "image" if name.startswith("image") else "audio"
            grid = (height, length // height) if height else (None, None)
            place = (i, message, ROLES[role], kind, name, start, length, *grid)
            self.media.append((sample.key, self.shard, *place, next(names[kind], None)))

    def _count(self, name: str, stream: np.ndarray[Any, Any]) -> None:
        if name not in self.codes:
            self.codes[name] = _no_counts()
        np.add.at(self.codes[name], stream, 1)

    def tables(self) -> dict[str, pa.Table]:
        """The three tables."""
        return {
            "messages": _table(self.messages, _MESSAGES),
            "media": _table(self.media, _MEDIA),
            "codes": _codes_table(
                {name: (n, (n > 0).astype(np.int64)) for name, n in self.codes.items()}
            ),
        }


def add_codes(tables: Iterable[pa.Table]) -> pa.Table:
    """The `codes` table of several shards, or of none, together."""
    totals: dict[str, tuple[Counts, Counts]] = {}
    for table in tables:
        code, count, shards = (table[n].to_numpy() for n in ("code", "count", "shards"))
        streams = np.asarray(table["stream"])
        for name in CODE_STREAMS:
            here = streams == name
            if here.any():
                total = totals.setdefault(name, (_no_counts(), _no_counts()))
                # A code stands once in a table, so plain indexing adds every count.
                total[0][code[here]] += count[here]
                total[1][code[here]] += shards[here]
    return _codes_table(totals)


def read_contents(storage: Storage, shard: int, rows: pa.Table) -> Contents:
    """Read samples of one shard; what cannot be read is listed, not raised.

    Args:
        storage: where the tars are.
        shard: number of the shard.
        rows: `key`, `offset`, `size`, `crc` of the samples wanted, by offset.
    """
    contents = Contents(shard)
    places = list(
        zip(*(rows[n].to_pylist() for n in ("key", "offset", "size", "crc")), strict=True)
    )
    try:
        with _payloads(storage, shard, places) as read:
            for key, offset, size, crc in places:
                try:
                    data = read(offset, size)
                    contents.add(decode_sample(key, data, storage.path(tar_name(shard)), crc))
                except OmniError as error:
                    contents.faults.append(str(error))
    except OmniError as error:
        contents.faults.append(str(error))
    return contents


@contextmanager
def _payloads(storage: Storage, shard: int, places: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """A function of (offset, size) for the bytes of a tar.

    A remote tar of which most is wanted is copied for the time of the block; else each sample is a
    request of its own.
    """
    name = tar_name(shard)
    if storage.is_local:
        yield ShardReader(storage.path(name)).payload
        return
    wanted, size = sum(place[2] for place in places), storage.size(name)
    if size is not None and wanted < size // 4:
        yield lambda offset, size: storage.read(name, offset, offset + size)
        return
    with storage.temporary(name) as part:
        storage.download(name, part)
        yield ShardReader(part, storage.path(name)).payload


class ContentCache:
    """Tables on the local disk, each under a name that follows from the rows it was made from.

    Args:
        folder: where they are kept. It may be deleted at any time.
    """

    def __init__(self, folder: Path) -> None:
        self.storage = Storage(folder)

    def name(self, table: str, digest: str) -> str:
        """File name of a table.

        Args:
            table: `messages`, `media` or `codes`.
            digest: of the rows that it is made from.
        """
        stem = hashlib.sha256(f"{VERSION} {digest}".encode()).hexdigest()[:32]
        return f"{stem[:2]}/{stem}.{table}.parquet"

    def holds(self, table: str, digest: str) -> bool:
        """Whether a table is there."""
        return self.storage.size(self.name(table, digest)) is not None

    def keep(self, table: str, digest: str, rows: pa.Table) -> None:
        """Write a table.

        Raises:
            StorageError: the disk refused.
        """
        name = self.name(table, digest)
        with self.storage.temporary(name) as path:
            write_parquet(rows, path)
            self.storage.publish(path, name, replace=True)

    def read(self, table: str, digest: str) -> pa.Table:
        """A table that is there.

        Raises:
            CorpusError: it is damaged.
        """
        return read_table(self.storage, self.name(table, digest))


def _no_counts() -> Counts:
    """One counter for every code that the stream's type can hold."""
    return np.zeros(1 << 16, np.int64)


def _codes_table(totals: Mapping[str, tuple[Counts, Counts]]) -> pa.Table:
    """Of each stream, how often each code occurs and in how many shards."""
    parts = [_CODES.empty_table()]
    for name in sorted(totals):
        counts, shards = totals[name]
        used = np.flatnonzero(counts)
        columns = [[name] * len(used), used, counts[used], shards[used]]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, _CODES, strict=True)]
        parts.append(pa.Table.from_arrays(arrays, schema=_CODES))
    return pa.concat_tables(parts)


def _table(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema)
