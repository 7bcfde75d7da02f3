"""Codes of pictures and sounds that were encoded before, by the hash of their files.

The same file is encoded once per tokenizer and resolution, across runs, machines and corpora.

    ROOT/NAMESPACE/DIGEST.parquet     a segment (`media_segment`): what one `commit` added

A namespace is what codes depend on besides the file, e.g. the tokenizer's fingerprint and the
resolution. Segments appear whole, never change, and are named by their own bytes: a commit that is
repeated changes nothing, and writers need not know of each other.

In memory an entry takes 16 bytes: half of its hash, and its place. The other half is compared when
the codes are read.

**Damage.** Codes come only from a segment whose bytes still have the digest that names it. Any
other one is passed over, with a warning and a count, and its files are encoded again. Readers
remove nothing: what looks like damage to one may be its own memory or disk. The commit of the same
entries puts the segment right again.

XXH3 finds equal files, not forged ones: whoever can choose input files could make two of one hash.
"""

from __future__ import annotations

import logging
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CodeRangeError, CorpusError, StorageError
from omni_diffusion.pipelines.media_segment import (
    HASH_BYTES,
    CachedCodes,
    Segment,
    encode_segment,
    is_segment,
    read_hashes,
    read_segment,
    segment_name,
)

MAX_INDEX_ENTRIES = 50_000_000
SEGMENTS_IN_MEMORY_BYTES = 64 << 20

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,150}")
_THREADS = 16
"""Segments whose hashes are read at a time: in an object store that is waiting, not work."""

log = logging.getLogger(__name__)


def content_hash(data: bytes) -> bytes:
    """The 16 bytes that stand for an encoded file: its XXH3-128."""
    return xxhash.xxh3_128_digest(data)


class MediaCache:
    """Codes by content hash. Safe for several threads, processes and machines.

    Args:
        root: a local folder or a URL; it may hold caches of many tokenizers.
        namespace: what codes depend on besides the file; others' entries are never seen.
        max_index_entries: entries that may be known at a time, 16 bytes each. What is beyond is
            counted in `unindexed` and encoded again when it is met.

    Attributes:
        damaged: segments that were passed over because their bytes are not what was written.
        unindexed: entries that found no room in the index.

    Raises:
        StorageError: the store refused to list or to read.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        namespace: str,
        max_index_entries: int = MAX_INDEX_ENTRIES,
    ) -> None:
        self.namespace = namespace
        self.max_index_entries = max_index_entries
        self.damaged = 0
        self.unindexed = 0
        self._storage = Storage(Storage(root).path(_folder(namespace)))
        self._lock = RLock()
        self._pending: dict[bytes, CachedCodes] = {}
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []
        self._passed_over: set[int] = set()
        self._in_memory: OrderedDict[int, Segment] = OrderedDict()
        # Sorted by key. A place is a segment's number << 32 | a row of it.
        self._keys = np.empty(0, np.uint64)
        self._places = np.empty(0, np.uint64)
        self.refresh()

    def __len__(self) -> int:
        """Entries in the index and those that wait for a commit."""
        return len(self._keys) + len(self._pending)

    @property
    def index_bytes(self) -> int:
        """Memory that the index takes."""
        return self._keys.nbytes + self._places.nbytes

    def refresh(self) -> int:
        """Learn of segments that others have committed; those already known are not read again.

        Returns:
            how many segments are new.

        Raises:
            StorageError: the store refused.
        """
        with self._lock:
            listed = [entry for entry in self._storage.list() if is_segment(entry.name)]
            new = [entry for entry in listed if entry.name not in self._numbers]
            with ThreadPoolExecutor(_THREADS) as pool:
                read = list(pool.map(lambda e: self._hashes(e.name, e.size), new))
            self._index(zip((entry.name for entry in new), read, strict=True))
            return len(new)

    def lookup(self, hashes: Sequence[bytes]) -> list[CachedCodes | None]:
        """What is known of some files, in their order; None for a file that must be encoded.

        Args:
            hashes: made by `content_hash`; equal ones may occur.

        Raises:
            StorageError: the store refused.
        """
        _check_hashes(hashes)
        with self._lock:
            found = [self._pending.get(content) for content in hashes]
            # Segment by segment, so that each is read once however the hashes are ordered.
            for number, places in sorted(self._candidates(hashes).items()):
                wanted = [(i, row) for i, row in places if found[i] is None]
                segment = self._segment(number) if wanted else None
                if segment is not None:
                    for i, row in wanted:
                        found[i] = segment.entry(row, hashes[i])
            return found

    def add(self, content: bytes, codes: npt.ArrayLike, height: int) -> None:
        """Note what a file became. It is found here at once, elsewhere after `commit`.

        Args:
            content: `content_hash` of the file.
            codes: `[n]`, native codes.
            height: rows of a picture's code grid; 0 for a sound.

        Raises:
            CodeRangeError: codes that are not whole numbers of 16 bits, or a height that does not
                divide them.
            CorpusError: other codes are waiting to be committed under the same hash.
        """
        _check_hashes([content])
        entry = _entry(np.asarray(codes), height)
        with self._lock:
            held = self._pending.setdefault(content, entry)
        if held.height != height or not np.array_equal(held.codes, entry.codes):
            reason = f"the tokenizer made two different things of the file {content.hex()}"
            raise CorpusError(self._storage.root, reason)

    def commit(self) -> str | None:
        """Publish all that was added, as one segment that appears whole.

        Returns:
            the segment's name, or None if nothing was added.

        Raises:
            StorageError: the store refused; what was added waits for the next commit.
        """
        with self._lock:
            if not self._pending:
                return None
            hashes = sorted(self._pending)
            data = encode_segment(hashes, [self._pending[h] for h in hashes], self.namespace)
            name = segment_name(data)
            # The name stands for these bytes: what is there already is the same, or damaged.
            self._storage.publish_bytes(data, name, replace=True)
            if name not in self._numbers or self._numbers[name] in self._passed_over:
                self._index([(name, b"".join(hashes))])
            self._pending.clear()
            return name

    def _index(self, segments: Iterable[tuple[str, bytes | CorpusError]]) -> None:
        """Take in segments by the hashes of their rows, and note those that cannot be used."""
        keys, places = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
        room = self.max_index_entries - len(self._keys)
        for name, hashes in segments:
            number = self._numbers[name] = len(self._names)
            self._names.append(name)
            if isinstance(hashes, CorpusError):
                self._pass_over(number, hashes)
                continue
            new = _keys(hashes)[: max(0, room)]
            room -= len(new)
            self.unindexed += len(hashes) // HASH_BYTES - len(new)
            keys.append(new)
            places.append(np.arange(len(new), dtype=np.uint64) | np.uint64(number << 32))
        added = np.concatenate(keys)
        order = np.argsort(added, kind="stable")
        at = np.searchsorted(self._keys, added[order], side="right")
        self._keys = np.insert(self._keys, at, added[order])
        self._places = np.insert(self._places, at, np.concatenate(places)[order])

    def _candidates(self, hashes: Sequence[bytes]) -> dict[int, list[tuple[int, int]]]:
        """By segment: which hash, by position, may be that of which row."""
        keys = _keys(b"".join(hashes))
        first = np.searchsorted(self._keys, keys, side="left")
        last = np.searchsorted(self._keys, keys, side="right")
        wanted: dict[int, list[tuple[int, int]]] = {}
        for i in np.flatnonzero(first < last).tolist():
            for place in self._places[first[i] : last[i]].tolist():
                number, row = divmod(place, 1 << 32)
                if number not in self._passed_over:
                    wanted.setdefault(number, []).append((i, row))
        return wanted

    def _hashes(self, name: str, size: int) -> bytes | CorpusError:
        try:
            return read_hashes(self._storage, name, size, self.namespace)
        except CorpusError as error:
            self._check_not_refused(name, error)
            return error

    def _segment(self, number: int) -> Segment | None:
        """The rows of a segment, from memory or from the store; None if it cannot be used."""
        segment = self._in_memory.pop(number, None)
        if segment is None:
            name = self._names[number]
            try:
                segment = read_segment(self._storage, name, self.namespace)
            except CorpusError as error:
                self._check_not_refused(name, error)
                self._pass_over(number, error)
                return None
        self._in_memory[number] = segment
        while sum(s.nbytes for s in self._in_memory.values()) > SEGMENTS_IN_MEMORY_BYTES:
            self._in_memory.popitem(last=False)
        return segment

    def _check_not_refused(self, name: str, error: CorpusError) -> None:
        """Raise an error of the store again, unless it is that the segment was removed."""
        if isinstance(error, StorageError) and self._storage.size(name) is not None:
            raise error

    def _pass_over(self, number: int, error: CorpusError) -> None:
        """Go on without a segment that is damaged or was removed."""
        self.damaged += not isinstance(error, StorageError)
        self._passed_over.add(number)
        log.warning("%s; its files are encoded again", error)


def _folder(namespace: str) -> str:
    """A folder for any namespace; names that file systems could mistake get a digest."""
    if _PLAIN.fullmatch(namespace):
        return namespace
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", namespace)[:100]
    return f"{plain}.{xxhash.xxh3_128_hexdigest(namespace.encode())}"


def _entry(codes: npt.NDArray[Any], height: int) -> CachedCodes:
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise CodeRangeError(f"codes are {codes.dtype}{list(codes.shape)}, not whole numbers [n]")
    if len(codes) and not 0 <= codes.min() <= codes.max() <= 0xFFFF:
        raise CodeRangeError(f"codes {codes.min()} to {codes.max()} do not fit into 16 bits")
    if not 0 <= height <= 0xFFFF or (height and len(codes) % height):
        raise CodeRangeError(f"{len(codes)} codes do not fill {height} rows")
    return CachedCodes(codes.astype(np.uint16), height)


def _check_hashes(hashes: Sequence[bytes]) -> None:
    for content in hashes:
        if len(content) != HASH_BYTES:
            raise ValueError(f"a content hash has {HASH_BYTES} bytes, not {len(content)}")


def _keys(hashes: bytes) -> npt.NDArray[np.uint64]:
    """The first 8 bytes of each hash."""
    return np.frombuffer(hashes, "<u8").reshape(-1, 2)[:, 0]
