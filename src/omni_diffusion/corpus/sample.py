"""A tokenized conversation, and its bytes: the payload of one tar member `KEY.omni`.

All numbers are little-endian. `S` streams, `N` spans, `R` bytes of record:

    offset          bytes   content
    0               4       magic `ODS1`
    4               4       CRC-32 of all bytes from offset 8 on, uint32
    8               2       S, uint16
    10              2       N, uint16
    12              4       R, uint32
    16              8 S     stream table: kind uint8, 0 uint8, columns uint16, rows uint32
    16+8S           16 N    span table, see `SPAN`
    16+8S+16N       ...     the streams, one after another, each rows x columns items
    ...             R       the record, UTF-8 JSON

A stream appears at most once and in ascending kind, so the widest items come first and every
array lies aligned where the member's payload is (it starts at a multiple of 512 in the tar).
Codes are native codebook ids: vocabulary offsets are applied when they are loaded, so shards
outlive a change of vocabulary. Nothing in here needs parsing on the way to the trainer: a stream
is one `numpy.frombuffer`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import xxhash
from isal.isal_zlib import crc32  # zlib's, at four times the speed
from numpy.typing import NDArray

from omni_diffusion.corpus.record import ROLES, Record
from omni_diffusion.errors import CorpusError, RecordError

MAGIC = b"ODS1"
EXTENSION = "omni"


class StreamKind(NamedTuple):
    """A sequence that a sample can hold: its code in the file, its name and its item type."""

    code: int
    name: str
    dtype: np.dtype[Any]


STREAMS = (
    StreamKind(0, "text", np.dtype("<u4")),
    StreamKind(1, "image256", np.dtype("<u2")),
    StreamKind(2, "image512", np.dtype("<u2")),
    StreamKind(3, "speech", np.dtype("<u2")),
    StreamKind(4, "features", np.dtype("<f2")),
)
"""Text ids; picture codes at 256 and 512 pixels; speech codes; continuous speech features."""

BY_NAME = {kind.name: kind for kind in STREAMS}

SPAN = np.dtype(
    [
        ("message", "<u2"),  # index into record.messages
        ("role", "u1"),  # index into record.ROLES
        ("stream", "u1"),  # StreamKind.code
        ("start", "<u4"),  # first row in that stream
        ("length", "<u4"),  # rows
        ("height", "<u4"),  # pictures: rows of the code grid (length = height x width); else 0
    ]
)
"""One content piece: a run of text, a picture or a sound, in the order of the conversation."""

_HEAD = struct.Struct("<4sIHHI")
_CHECKED_FROM = 8
_STREAM = struct.Struct("<BBHI")
_TABLES = [struct.Struct("<" + "BBHI" * n) for n in range(len(STREAMS) + 1)]
_LAYOUT = [(kind.name, kind.dtype, kind.dtype.itemsize, kind.dtype.kind == "f") for kind in STREAMS]
_NO_SPANS = np.empty(0, SPAN)
_PICTURES = (BY_NAME["image256"].code, BY_NAME["image512"].code)


@dataclass(eq=False)  # not frozen: that costs a tenth of the time that reading one takes
class Sample:
    """One conversation with its tokens. Not to be changed once it is made.

    Attributes:
        key: unique in its corpus, see `record.check_key`.
        streams: stream name to array: `[rows]`, or `[rows, columns]` for `features`. Empty
            streams are left out. Arrays that were read are read-only views of the shard.
        spans: `SPAN[N]`, in the order of the conversation.
        record_json: the record as it stands in the shard; like the arrays, a view of it.
    """

    key: str
    streams: Mapping[str, NDArray[Any]]
    spans: NDArray[Any]
    record_json: bytes | memoryview

    def __getstate__(self) -> dict[str, Any]:
        """A sample can be handed to another process, which a view of a file cannot."""
        return {**self.__dict__, "record_json": bytes(self.record_json)}

    @cached_property
    def record(self) -> Record:
        """The conversation, parsed when first asked for."""
        return Record.from_json(bytes(self.record_json), self.key)

    @property
    def supervised_length(self) -> int:
        """Rows of all assistant spans: what the loss can see, without the template's own ids."""
        spans = self.spans
        return int(spans["length"][spans["role"] == ROLES.index("assistant")].sum())

    def stream_length(self, name: str) -> int:
        """Rows of one stream, 0 where the sample has none."""
        stream = self.streams.get(name)
        return 0 if stream is None else len(stream)


def build_sample(
    key: str, record: Record, streams: Mapping[str, NDArray[Any]], spans: NDArray[Any]
) -> Sample:
    """Make a sample from arrays of any integer type, checking that they say the same.

    Args:
        key: the sample's key.
        record: the conversation.
        streams: stream name to ids `[rows]` (features: floats `[rows, columns]`).
        spans: `SPAN[N]`.

    Raises:
        RecordError: an unknown stream, ids outside the stream's type, a value that is not finite,
            or spans that point outside their stream.
    """
    if unknown := sorted(set(streams) - set(BY_NAME)):
        known = ", ".join(BY_NAME)
        raise RecordError(key, f"streams.{unknown[0]}", f"is not a stream, expected {known}")
    kept = {
        kind.name: _as_stream(key, kind, streams[kind.name])
        for kind in STREAMS
        if kind.name in streams and np.size(streams[kind.name])
    }
    spans = np.asarray(spans)
    if spans.dtype != SPAN or spans.ndim != 1:
        raise RecordError(key, "spans", f"is {spans.dtype}{list(spans.shape)}, not SPAN[n]")
    sample = Sample(key=key, streams=kept, spans=spans, record_json=record.to_json())
    if len(spans) and int(spans["message"].max()) >= len(record.messages):
        last = len(record.messages) - 1
        raise RecordError(key, "spans.message", f"names a message after the last one ({last})")
    if fault := span_fault(sample):
        raise RecordError(key, "spans", fault)
    return sample


def span_fault(sample: Sample) -> str | None:
    """What is wrong with a span table, in words, or None."""
    rows = np.zeros(256, np.int64)
    for name, stream in sample.streams.items():
        rows[BY_NAME[name].code] = len(stream)
    spans = sample.spans
    if (spans["role"] >= len(ROLES)).any():
        return "names a role that does not exist"
    if (spans["stream"] >= len(STREAMS)).any():
        return "names a stream that does not exist"
    ends = spans["start"].astype(np.int64) + spans["length"]
    if (outside := ends > rows[spans["stream"]]).any():
        worst = int(np.argmax(outside))
        name = STREAMS[spans["stream"][worst]].name
        return f"span {worst} ends at {ends[worst]}, stream {name} at {rows[BY_NAME[name].code]}"
    height, length = spans["height"].astype(np.int64), spans["length"].astype(np.int64)
    picture = np.isin(spans["stream"], _PICTURES)
    if (height[~picture] != 0).any():
        return "gives a height to something that is not a picture"
    if ((height[picture] == 0) | (length[picture] % np.maximum(height[picture], 1) != 0)).any():
        return "gives a picture a height that does not divide its length"
    return None


def encode_sample(sample: Sample) -> bytes:
    """The member's payload: a pure function of the sample."""
    table, parts = b"", []
    for kind in STREAMS:
        if (stream := sample.streams.get(kind.name)) is None:
            continue
        columns = stream.shape[1] if stream.ndim == 2 else 1
        table += _STREAM.pack(kind.code, 0, columns, len(stream))
        parts.append(stream.tobytes())
    counts = struct.pack("<HHI", len(parts), len(sample.spans), len(sample.record_json))
    body = b"".join([counts, table, sample.spans.tobytes(), *parts, sample.record_json])
    return MAGIC + struct.pack("<I", crc32(body)) + body


def stored_crc(data: bytes | memoryview) -> int:
    """The CRC-32 that a payload carries, unchecked."""
    return int(_HEAD.unpack_from(data)[1])


def decode_sample(
    key: str, data: bytes | memoryview, where: object = "sample", crc: int | None = None
) -> Sample:
    """Check and read a member's payload without copying its arrays.

    Args:
        key: the member's key.
        data: the payload; it must outlive the sample.
        where: file named in errors.
        crc: what the index says the payload's CRC-32 is, where there is an index.

    Raises:
        CorpusError: names file and key, where the bytes do not follow the layout above, do not
            match their own CRC-32, or are not the ones that the index speaks of.
    """
    try:
        magic, stored, n_streams, n_spans, record_bytes = _HEAD.unpack_from(data)
        if magic != MAGIC:
            raise ValueError(f"starts with {bytes(magic)!r}, not {MAGIC!r}")
        if crc32(data[_CHECKED_FROM:]) != stored:
            raise ValueError(f"damaged: its CRC-32 is not the {stored:08x} that it carries")
        if crc is not None and crc != stored:
            raise ValueError(f"carries CRC-32 {stored:08x}, the index says {crc:08x}")
        if n_streams > len(STREAMS):
            raise ValueError(f"says that it has {n_streams} streams")
        at = _HEAD.size + _STREAM.size * n_streams
        spans = np.frombuffer(data, SPAN, n_spans, at) if n_spans else _NO_SPANS
        at += SPAN.itemsize * n_spans
        streams: dict[str, NDArray[Any]] = {}
        table = _TABLES[n_streams].unpack_from(data, _HEAD.size)
        last = -1
        for i in range(0, len(table), 4):
            code, zero, columns, rows = table[i : i + 4]
            if code <= last or code >= len(STREAMS) or zero or not columns or not rows:
                raise ValueError(f"stream table entry {i // 4} is not valid")
            last = code
            name, dtype, item_bytes, two_dimensional = _LAYOUT[code]
            stream = np.frombuffer(data, dtype, rows * columns, at)
            if two_dimensional:
                stream = stream.reshape(rows, columns)
            elif columns != 1:
                raise ValueError(f"stream {name} has {columns} columns, not 1")
            streams[name] = stream
            at += rows * columns * item_bytes
        if at + record_bytes != len(data):
            raise ValueError(f"lengths add up to {at + record_bytes} of {len(data)} bytes")
        return Sample(key, streams, spans, data[at:])
    except (ValueError, struct.error) as error:
        raise CorpusError(where, f"member {key}.{EXTENSION}: {error}") from None


def content_hash(data: bytes | memoryview) -> int:
    """64-bit xxh3 of tables and streams (not of the record): equal tokens, equal hash.

    Args:
        data: a member's payload.
    """
    record_bytes = _HEAD.unpack_from(data)[4]
    return xxhash.xxh3_64_intdigest(memoryview(data)[_HEAD.size : len(data) - record_bytes])


def _as_stream(key: str, kind: StreamKind, values: NDArray[Any]) -> NDArray[Any]:
    field, values = f"streams.{kind.name}", np.asarray(values)
    if kind.dtype.kind == "f":
        if values.ndim != 2 or values.dtype.kind != "f":
            raise RecordError(key, field, f"is {values.dtype}{list(values.shape)}, not floats[n,d]")
        with np.errstate(over="ignore"):
            stored = values.astype(kind.dtype)
        if not np.isfinite(stored).all():
            raise RecordError(key, field, "holds values that are not finite in half precision")
        return np.ascontiguousarray(stored)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise RecordError(key, field, f"is {values.dtype}{list(values.shape)}, not integers[n]")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > np.iinfo(kind.dtype).max:
        bad = low if low < 0 else high
        raise RecordError(key, field, f"holds {bad}, outside 0..{np.iinfo(kind.dtype).max}")
    return np.ascontiguousarray(values, kind.dtype)
