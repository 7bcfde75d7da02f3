"""A segment: one immutable file of a media cache.

Parquet with a row an entry, in the order of the hashes, and named by the XXH3-128 of its own bytes:

    codes    list of uint16    native codes
    height   uint16            rows of a picture's code grid, 0 for a sound
    hash     16 bytes          of the file that was encoded

`hash` comes last because it then lies beside the footer: in an object store the hashes of a segment
cost two ranged requests, and the codes stay where they are. File metadata `omni_diffusion.codes_of`
names the namespace, so a segment that was copied elsewhere is recognised.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from omni_diffusion.corpus.sidecar import open_parquet
from omni_diffusion.corpus.storage import RangedFile, Storage
from omni_diffusion.errors import CorpusError

HASH_BYTES = 16

_CODES_OF = b"omni_diffusion.codes_of"
_NAME = re.compile(r"[0-9a-f]{32}\.parquet")
_SCHEMA = pa.schema(
    [
        pa.field("codes", pa.list_(pa.field("element", pa.uint16(), False)), nullable=False),
        pa.field("height", pa.uint16(), nullable=False),
        pa.field("hash", pa.binary(HASH_BYTES), nullable=False),
    ]
)

Codes = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True, eq=False)
class CachedCodes:
    """What a tokenizer made of one file.

    Attributes:
        codes: `[n]`, native codes.
        height: rows of a picture's code grid; 0 for a sound.
    """

    codes: Codes
    height: int


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """The rows of a segment in memory; row `i` holds `codes[offsets[i] : offsets[i + 1]]`."""

    hashes: bytes
    heights: npt.NDArray[np.uint16]
    offsets: npt.NDArray[np.int32]
    codes: Codes

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        arrays = self.heights.nbytes + self.offsets.nbytes + self.codes.nbytes
        return len(self.hashes) + arrays

    def entry(self, row: int, content: bytes) -> CachedCodes | None:
        """The entry at a row, if it is the one of that hash."""
        at = row * HASH_BYTES
        if self.hashes[at : at + HASH_BYTES] != content:
            return None
        # A copy: a caller that keeps one picture must not keep the whole segment.
        codes = self.codes[self.offsets[row] : self.offsets[row + 1]].copy()
        return CachedCodes(codes, int(self.heights[row]))


def is_segment(name: str) -> bool:
    """Whether a file has the name of a segment."""
    return _NAME.fullmatch(name) is not None


def segment_name(data: bytes) -> str:
    """The name of a segment of these bytes."""
    return f"{xxhash.xxh3_128_hexdigest(data)}.parquet"


def encode_segment(
    hashes: Sequence[bytes], entries: Sequence[CachedCodes], namespace: str
) -> bytes:
    """The file of some entries: a pure function of them (for one version of pyarrow)."""
    offsets = np.cumsum([0, *(len(entry.codes) for entry in entries)]).astype(np.int32)
    values = pa.array(np.concatenate([entry.codes for entry in entries]))
    columns = [
        pa.ListArray.from_arrays(pa.array(offsets), values, type=_SCHEMA.field("codes").type),
        pa.array([entry.height for entry in entries], pa.uint16()),
        pa.array(hashes, pa.binary(HASH_BYTES)),
    ]
    sink = io.BytesIO()
    pq.write_table(
        pa.table(columns, schema=_SCHEMA.with_metadata({_CODES_OF: namespace.encode()})),
        sink,
        compression="zstd",
        use_dictionary=False,
        # The high bytes of codes lie together: 434 bytes a picture of 256 random codes of 13 bits,
        # hash included, instead of 600.
        column_encoding={"codes.list.element": "BYTE_STREAM_SPLIT"},
        write_page_checksum=True,
    )
    return sink.getvalue()


def read_hashes(storage: Storage, name: str, size: int, namespace: str) -> bytes:
    """The hashes of a segment, one after the other; its codes are neither read nor checked.

    Raises:
        CorpusError: damaged, or not a segment of this namespace.
        StorageError: the store refused.
    """
    path = storage.path(name)
    with open_parquet(RangedFile(storage, name, size), path) as file:
        _check_form(file.schema_arrow, namespace, path)
        hashes = _joined(file.read(columns=["hash"])["hash"])
        # Page checksums do not cover headers and footer: a flip there can hide all rows.
        if not hashes or len(hashes) != file.metadata.num_rows * HASH_BYTES:
            raise CorpusError(path, f"holds {len(hashes) // HASH_BYTES} hashes")
    return hashes


def read_segment(storage: Storage, name: str, namespace: str) -> Segment:
    """A whole segment.

    Raises:
        CorpusError: its bytes are not those that its name stands for, or it is of another
            namespace.
        StorageError: the store refused.
    """
    path = storage.path(name)
    data = storage.read(name)
    if segment_name(data) != name:
        raise CorpusError(path, "its bytes are not those that its name stands for")
    with open_parquet(pa.BufferReader(data), path) as file:
        _check_form(file.schema_arrow, namespace, path)
        table = file.read()
    lists = table["codes"].combine_chunks()
    return Segment(
        _joined(table["hash"]),
        table["height"].to_numpy(),
        lists.offsets.to_numpy(),
        lists.values.to_numpy(),
    )


def _check_form(schema: pa.Schema, namespace: str, path: str) -> None:
    if not schema.equals(_SCHEMA):
        raise CorpusError(path, "is not a segment of a media cache")
    made_by = (schema.metadata or {}).get(_CODES_OF, b"").decode(errors="replace")
    if made_by != namespace:
        raise CorpusError(path, f"holds codes of {made_by or 'nobody'}, not of {namespace}")


def _joined(column: pa.ChunkedArray) -> bytes:
    return b"".join(column.to_pylist())
