"""Small values by content key, in few immutable files: a cache that object stores can bear.

A segment holds what one `commit` added. All numbers are little-endian:

    offset      bytes   content
    0           8       magic `ODSEG1` and two zeros
    8           4       n, the number of entries, uint32
    12          4       CRC-32 of the table
    16          28 n    table, ordered by key: key (16), offset uint64 from the start of the file,
                        CRC-32 of the value uint32
    16 + 28 n   ...     the values, one after another, to the end of the file

It is named by the XXH3-128 of its bytes, appears whole and never changes, so any number of
processes and machines can add to one store without knowing of each other. A table is checked when
it is read, a value when it is looked up; what is damaged counts as unknown and is made again.
"""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import RLock
from typing import Any, NamedTuple

import numpy as np
import xxhash
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from omni_diffusion.corpus.storage import Entry, Storage
from omni_diffusion.errors import StorageError

KEY_BYTES = 16
SEGMENT_BYTES = 16 << 20
"""When so much is waiting it is committed unasked, so that little is lost with a process."""

_HEAD = struct.Struct("<8sII")
_MAGIC = b"ODSEG1\0\0"
_ROW = np.dtype([("key", f"V{KEY_BYTES}"), ("offset", "<u8"), ("crc", "<u4")])
_NAME = re.compile(r"[0-9a-f]{32}\.seg")
_FIRST_READ = 64 << 10
_GAP = 256 << 10
"""Values that lie no further apart are read in one go."""

_THREADS = 16

log = logging.getLogger(__name__)


class _Place(NamedTuple):
    """Where a value lies, and what its CRC-32 must be."""

    segment: int
    start: int
    end: int
    crc: int


class SegmentStore:
    """Values by 16-byte key. Safe for several threads, processes and machines.

    Args:
        root: a local folder or a URL; None keeps what was added since the last commit in memory.

    Attributes:
        damaged: segments and values that were passed over.

    Raises:
        StorageError: the store refused to list or to read.
    """

    def __init__(self, root: str | None) -> None:
        self._storage = None if root is None else Storage(root)
        self._lock = RLock()
        self._pending: dict[bytes, bytes] = {}
        self._pending_bytes = 0
        self._segments: list[str] = []
        self._places: dict[bytes, _Place] = {}
        self.damaged = 0
        self.refresh()

    def __len__(self) -> int:
        """Keys that are known."""
        return len(self._places.keys() | self._pending.keys())

    def refresh(self) -> None:
        """Learn of segments that others have committed.

        Raises:
            StorageError: the store refused.
        """
        if self._storage is None:
            return
        with self._lock:
            known = set(self._segments)
            new = [
                e for e in self._storage.list() if _NAME.fullmatch(e.name) and e.name not in known
            ]
            with ThreadPoolExecutor(_THREADS) as pool:
                for entry, table in zip(new, pool.map(self._read_table, new), strict=True):
                    if table is not None:
                        self._index(entry.name, table, entry.size)

    def lookup(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, or None where it is unknown or damaged.

        Raises:
            StorageError: the store refused.
        """
        with self._lock:
            found = {key: self._pending.get(key) for key in keys}
            places = [
                (place, key)
                for key, value in found.items()
                if value is None and (place := self._places.get(key))
            ]
            for run in _runs(sorted(places)):
                found |= self._read_run(run)
        return [found[key] for key in keys]

    def add(self, key: bytes, value: bytes) -> None:
        """Remember a value; it is found here at once, elsewhere after `commit`.

        Raises:
            StorageError: a segment was full and could not be committed.
        """
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        with self._lock:
            self._pending_bytes += len(value) - len(self._pending.get(key, b""))
            self._pending[key] = value
            if self._pending_bytes >= SEGMENT_BYTES:
                self.commit()

    def commit(self) -> None:
        """Publish what was added, as one segment.

        Raises:
            StorageError: the store refused; what was added waits for the next commit.
        """
        with self._lock:
            if self._storage is None:
                self._pending, self._pending_bytes = {}, 0
            if not self._pending or self._storage is None:
                return
            data = encode_segment(self._pending)
            name = f"{xxhash.xxh3_128_hexdigest(data)}.seg"
            # The name stands for these bytes: what is there already is the same, or damaged.
            self._storage.publish_bytes(data, name, replace=True)
            table = _table(data)
            assert table is not None  # it has just been made
            self._index(name, table, len(data))
            self._pending, self._pending_bytes = {}, 0

    def _index(self, name: str, table: NDArray[Any], size: int) -> None:
        number = len(self._segments)
        self._segments.append(name)
        ends = [*table["offset"][1:].tolist(), size]
        rows = zip(table["key"], table["offset"].tolist(), ends, table["crc"].tolist(), strict=True)
        for key, start, end, crc in rows:
            self._places[key.tobytes()] = _Place(number, start, end, crc)

    def _read_table(self, entry: Entry) -> NDArray[Any] | None:
        """The table of a segment; None if it is damaged, or was removed meanwhile."""
        assert self._storage is not None
        try:
            head = self._storage.read(entry.name, 0, min(_FIRST_READ, entry.size))
            if len(head) >= _HEAD.size:
                wanted = _HEAD.size + _ROW.itemsize * _HEAD.unpack_from(head)[1]
                if len(head) < wanted <= entry.size:
                    head += self._storage.read(entry.name, len(head), wanted)
        except StorageError:
            if self._storage.size(entry.name) is not None:
                raise
            return None
        table = _table(head)
        if table is None or not _fits(table, entry.size):
            self.damaged += 1
            log.warning("%s: damaged; what it held is made again", self._storage.path(entry.name))
            return None
        return table

    def _read_run(self, run: list[tuple[_Place, bytes]]) -> dict[bytes, bytes | None]:
        """Values that lie close together in one segment."""
        assert self._storage is not None
        name, start, end = self._segments[run[0][0].segment], run[0][0].start, run[-1][0].end
        try:
            data = memoryview(self._storage.read(name, start, end))
        except StorageError:
            if self._storage.size(name) is not None:
                raise
            data = memoryview(b"")
        values: dict[bytes, bytes | None] = {}
        for place, key in run:
            value = bytes(data[place.start - start : place.end - start])
            if crc32(value) == place.crc and len(value) == place.end - place.start:
                values[key] = value
            else:
                self.damaged += 1
                del self._places[key]
                log.warning("%s: value %s is damaged; it is made again", name, key.hex())
        return values


def encode_segment(values: dict[bytes, bytes]) -> bytes:
    """The file of some values: a pure function of them."""
    keys = sorted(values)
    table = np.zeros(len(keys), _ROW)
    lengths = [len(values[key]) for key in keys]
    table["key"] = np.frombuffer(b"".join(keys), f"V{KEY_BYTES}")
    table["offset"] = _HEAD.size + table.nbytes + np.cumsum([0, *lengths[:-1]])
    table["crc"] = [crc32(values[key]) for key in keys]
    head = _HEAD.pack(_MAGIC, len(keys), crc32(table.tobytes()))
    return b"".join([head, table.tobytes(), *(values[key] for key in keys)])


def _table(data: bytes) -> NDArray[Any] | None:
    """The table at the beginning of a segment, or None if that is not what stands there."""
    if len(data) < _HEAD.size:
        return None
    magic, count, crc = _HEAD.unpack_from(data)
    raw = data[_HEAD.size : _HEAD.size + count * _ROW.itemsize]
    if magic != _MAGIC or len(raw) != count * _ROW.itemsize or crc32(raw) != crc:
        return None
    return np.frombuffer(raw, _ROW)


def _fits(table: NDArray[Any], size: int) -> bool:
    offsets = table["offset"].astype(np.int64)
    return bool(len(table) and (np.diff(offsets) >= 0).all() and offsets[-1] <= size)


def _runs(places: list[tuple[_Place, bytes]]) -> Iterator[list[tuple[_Place, bytes]]]:
    """Cut places, in order, into runs that are worth one read each."""
    run: list[tuple[_Place, bytes]] = []
    for item in places:
        far = run and (
            item[0].segment != run[-1][0].segment or item[0].start - run[-1][0].end > _GAP
        )
        if far:
            yield run
            run = []
        run.append(item)
    if run:
        yield run
