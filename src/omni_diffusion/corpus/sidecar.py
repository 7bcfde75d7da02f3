"""The Parquet row that stands for a sample, and the file of them beside each shard.

Every column is a pure function of the member's bytes and place, so sidecars can be made again from
the tars, byte for byte. A shard exists exactly when its sidecar does: it is published last.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from isal.isal_zlib import crc32

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.record import Record
from omni_diffusion.corpus.sample import STREAMS, Sample, content_hash, stored_crc
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError, FingerprintError

FORMAT_VERSION = 1

QUALITY = (
    "duration_s",
    "wer",
    "cer",
    "words_per_s",
    "peak",
    "rms_dbfs",
    "silence_s",
    "clip_score",
    "end_silence_s",
    "clipped_share",
    "end_db",
    "noise_db",
    "voice_rate",
    "attempts",
)
"""Measured values of `record.quality` that become columns; others stay in the record."""

PROVENANCE = ("origin", "voice", "tts_engine")
"""Entries of `record.provenance` that become columns."""

LENGTHS = tuple(f"{kind.name}_len" for kind in STREAMS)

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int32(), nullable=False),
        pa.field("crc", pa.uint32(), nullable=False),
        pa.field("content_hash", pa.uint64(), nullable=False),
        *(pa.field(name, pa.int32(), nullable=False) for name in LENGTHS),
        pa.field("n_spans", pa.int32(), nullable=False),
        pa.field("supervised_len", pa.int32(), nullable=False),
        *(pa.field(name, pa.string()) for name in ("task", "source", "language", "license")),
        *(pa.field(name, pa.string()) for name in PROVENANCE),
        *(pa.field(name, pa.float32()) for name in QUALITY),
    ]
)
"""`offset` and `size` are of the member's payload in its tar; `crc` is the CRC-32 it carries. In a
media corpus they are of all members of the record with their headers, and `crc` is of those bytes.
"""

_META = b"omni_diffusion"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardInfo:
    """What a sidecar says of its whole shard.

    Attributes:
        number: the shard's number, the same as its input partition's.
        digest: SHA-256 of the tar, in hex.
        size: bytes of the tar.
        rows: samples in it.
        rejects: records of the partition that could not be used.
        fingerprints: what made the tokens: `vocabulary`, `text`, `image`, `speech`, ...; of a
            media corpus `media` and what made the sounds.
        format_version: of shard and sidecar.
    """

    number: int
    digest: str
    size: int
    rows: int
    rejects: int
    fingerprints: Mapping[str, str]
    format_version: int = FORMAT_VERSION


def tar_name(number: int) -> str:
    """Name of a shard's tar below the corpus root."""
    return f"shards/{number:05d}.tar"


def sidecar_name(number: int) -> str:
    """Name of a shard's sidecar below the corpus root."""
    return f"shards/{number:05d}.parquet"


def row_of(sample: Sample, shard: int, offset: int, data: bytes | memoryview) -> dict[str, Any]:
    """The sidecar row of one sample (see `SCHEMA`).

    Args:
        sample: the sample.
        shard: its shard's number.
        offset: where its payload starts in the tar.
        data: its payload.
    """
    row = {"key": sample.key, "shard": shard, "offset": offset, "size": len(data)}
    row |= {"crc": stored_crc(data), "content_hash": content_hash(data)}
    row |= {f"{kind.name}_len": sample.stream_length(kind.name) for kind in STREAMS}
    row |= {"n_spans": len(sample.spans), "supervised_len": sample.supervised_length}
    return row | _of_record(sample.record)


def media_row_of(
    entry: MediaRecord, shard: int, offset: int, data: bytes | memoryview
) -> dict[str, Any]:
    """The sidecar row of a record with its media, which has no tokens yet: all lengths are 0.

    Args:
        entry: the record.
        shard: its shard's number.
        offset: where the header of its first member starts in the tar.
        data: its members, headers and padding included.
    """
    row = {"key": entry.key, "shard": shard, "offset": offset, "size": len(data)}
    row |= {"crc": crc32(data), "content_hash": entry.content_hash}
    row |= dict.fromkeys((*LENGTHS, "n_spans", "supervised_len"), 0)
    return row | _of_record(entry.record)


def _of_record(record: Record) -> dict[str, Any]:
    row = {n: getattr(record, n) or None for n in ("task", "source", "language", "license")}
    row |= {name: record.provenance.get(name) for name in PROVENANCE}
    return row | {name: record.quality.get(name) for name in QUALITY}


def sidecar_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of `row_of` as a table."""
    return pa.table({name: [row[name] for row in rows] for name in SCHEMA.names}, schema=SCHEMA)


def encode_sidecar(table: pa.Table, info: ShardInfo) -> bytes:
    """The sidecar file: a pure function of rows and info (for one version of pyarrow)."""
    metadata = {_META: json.dumps(asdict(info), sort_keys=True)}
    sink = io.BytesIO()
    write_parquet(table.replace_schema_metadata(metadata), sink)
    return sink.getvalue()


def write_parquet(table: pa.Table, sink: Any) -> None:
    """Write a small table with the settings that all our Parquet files share."""
    pq.write_table(table, sink, **PARQUET_SETTINGS)


_FEW_VALUES = ("wer", "cer", "duration_s", "voice_rate", "attempts")

PARQUET_SETTINGS: dict[str, Any] = {
    "compression": "zstd",
    # Dictionaries where values recur: names, and small numbers, of which a dictionary's packed
    # indices take less than zstd leaves of four plain bytes. Keys and hashes do not recur.
    "use_dictionary": [
        *("task", "source", "language", "license", "voice", "tts_engine", "reason", "stage"),
        *("size", *LENGTHS, "n_spans", "supervised_len", *_FEW_VALUES),
    ],
    "column_encoding": {
        "key": "DELTA_BYTE_ARRAY",
        "offset": "DELTA_BINARY_PACKED",
        "shard": "DELTA_BINARY_PACKED",
        **{name: "BYTE_STREAM_SPLIT" for name in QUALITY if name not in _FEW_VALUES},
    },
    "write_page_checksum": True,
}


@contextmanager
def open_parquet(source: Any, path: object) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, checking page checksums as it is read.

    Args:
        source: a file name, or an open file.
        path: named in errors.

    Raises:
        CorpusError: it is not Parquet, or is damaged in a part that is read in the block.
    """
    try:
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorpusError(path, f"damaged, or not Parquet: {error}") from None


def read_table(storage: Storage, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows of one Parquet file of a corpus.

    Raises:
        CorpusError: it is absent or damaged.
    """
    if storage.size(name) is None:
        raise CorpusError(storage.path(name), "there is no such file")
    source = storage.path(name) if storage.is_local else pa.BufferReader(storage.read(name))
    with open_parquet(source, storage.path(name)) as file:
        return file.read(columns=None if columns is None else list(columns))


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A sidecar as it was read.

    Attributes:
        info: what it says of its shard.
        table: its rows.
        crc: CRC-32 of the whole file.
    """

    info: ShardInfo
    table: pa.Table
    crc: int


def read_sidecar(storage: Storage, number: int) -> Sidecar:
    """Read and check one sidecar, in one request.

    Raises:
        CorpusError: absent, damaged, of another format version, or of another shard, or with rows
            that no writer makes.
    """
    name = sidecar_name(number)
    path = storage.path(name)
    if storage.size(name) is None:
        raise CorpusError(path, "there is no such file")
    data = storage.read(name)
    with open_parquet(pa.BufferReader(data), path) as file:
        table = file.read(use_threads=False)  # small: handing it to threads costs more
        metadata = table.schema.metadata or {}
    check_schema(table.schema, path)
    info = shard_info(metadata, path)
    if info.number != number:
        raise CorpusError(path, f"is the sidecar of shard {info.number}")
    if info.rows != table.num_rows:
        raise CorpusError(path, f"says {info.rows} rows and holds {table.num_rows}")
    table = table.replace_schema_metadata(None)
    check_rows(table, info, path)
    return Sidecar(info, table, zlib.crc32(data))


def shard_info(metadata: Mapping[bytes, bytes], path: object) -> ShardInfo:
    """What the file metadata of a sidecar says of its shard.

    Raises:
        CorpusError: nothing, or of another format version.
    """
    try:
        info = ShardInfo(**json.loads(metadata[_META]))
    except (KeyError, TypeError, ValueError):
        raise CorpusError(path, "holds no shard information") from None
    if info.format_version != FORMAT_VERSION:
        reason = f"format version {info.format_version}, this program reads {FORMAT_VERSION}"
        raise CorpusError(path, reason)
    return info


def check_rows(table: pa.Table, info: ShardInfo, path: object) -> None:
    """Refuse sidecar rows that no writer makes.

    Raises:
        CorpusError: negative or missing numbers, NaN, members that overlap or leave the tar, rows
            of another shard.
    """
    for field in SCHEMA:
        column = table[field.name]
        if not field.nullable and column.null_count:
            raise CorpusError(path, f"column {field.name} has {column.null_count} missing values")
        values = _numbers(column)
        if pa.types.is_signed_integer(field.type) and len(values) and values.min() < 0:
            raise CorpusError(path, f"column {field.name} holds {values.min()}")
        if pa.types.is_floating(field.type) and not np.isfinite(values).all():
            raise CorpusError(path, f"column {field.name} holds a value that is not finite")
    shards = np.unique(_numbers(table["shard"]))
    if len(shards) and shards.tolist() != [info.number]:
        raise CorpusError(path, f"holds rows of shards {shards.tolist()}, is of {info.number}")
    offset, size = (_numbers(table[name]).astype(np.int64) for name in ("offset", "size"))
    if (offset[1:] < offset[:-1] + size[:-1]).any():
        row = int(np.argmax(offset[1:] < offset[:-1] + size[:-1]))
        raise CorpusError(path, f"members of rows {row} and {row + 1} overlap")
    if len(offset) and offset[-1] + size[-1] > info.size:
        raise CorpusError(path, f"the last member ends after the tar's {info.size} bytes")


def check_fingerprints(
    one: Mapping[str, str], other: Mapping[str, str], one_path: object, other_path: object
) -> None:
    """Refuse to treat tokens of different tokenizers as one corpus.

    Raises:
        FingerprintError: shows both values of the first difference, side by side.
    """
    for name in sorted({*one, *other}):
        if one.get(name) != other.get(name):
            mine, theirs = (f"{name} {f.get(name, '(none)')}" for f in (one, other))
            reason = f"made with {theirs}, but {one_path} with {mine}"
            raise FingerprintError(other_path, reason)


def _numbers(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """A column's values without its nulls, as numpy (empty for text)."""
    if pa.types.is_string(column.type):
        return np.empty(0, np.int64)
    values: np.ndarray[Any, Any] = column.drop_null().to_numpy()
    return values


def check_schema(found: pa.Schema, path: object) -> None:
    """Refuse columns that are not those of a sidecar, as an older version may have written them.

    Raises:
        CorpusError: names the columns and the way out.
    """
    if found.equals(SCHEMA):
        return
    missing = [n for n in SCHEMA.names if n not in found.names]
    extra = [n for n in found.names if n not in SCHEMA.names]
    other = [
        n for n in SCHEMA.names if n in found.names and found.field(n).type != SCHEMA.field(n).type
    ]
    faults = (("missing", missing), ("unknown", extra), ("of another type", other))
    told = "; ".join(f"{what}: {', '.join(names)}" for what, names in faults if names)
    raise CorpusError(path, f"columns differ ({told or 'order'}); run verify --rebuild-index")
