"""Files to codes: decode on threads, encode in batches, and never the same file twice.

A coder joins a decoder (bytes to pixels or samples), an encoder (many of those to codes) and a
cache. It works in two steps, so that one batch can be decoded while another is encoded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from omni_diffusion.errors import MediaError
from omni_diffusion.pipelines.media_cache import MediaCache, content_hash

M = TypeVar("M")

Codes = NDArray[np.integer[Any]]


class File(NamedTuple):
    """A picture or a sound, still encoded."""

    data: bytes
    name: str


@dataclass(slots=True)
class Pending(Generic[M]):
    """A file between the two steps: its hash, and its codes, its medium or its error."""

    hash: bytes
    found: Codes | M | MediaError


class Coder(Generic[M]):
    """See the module.

    Args:
        decode: bytes and a name for errors to a medium.
        encode: media to codes, in the same order.
        height: rows of a picture's code grid; 0 for sounds.
        cache: where codes are looked up and put, or None.
    """

    def __init__(
        self,
        decode: Callable[[bytes, str], M],
        encode: Callable[[Sequence[M]], Sequence[Codes]],
        height: int,
        cache: MediaCache | None,
    ) -> None:
        self._decode, self._encode, self._height, self._cache = decode, encode, height, cache
        self._lock = threading.Lock()
        self.encoded = 0
        #: Files that went through the network.
        self.reused = 0
        #: Files whose codes were known.

    def prepare(
        self, files: Sequence[File], threads: ThreadPoolExecutor | None
    ) -> list[Pending[M]]:
        """First step: look up, and decode what is not known: on threads, or on the caller's."""
        hashes = [content_hash(file.data) for file in files]
        known = self._lookup(hashes)
        unknown = [file for file, codes in zip(files, known, strict=True) if codes is None]
        media = (threads.map if threads else map)(self._decode_one, unknown)
        return [
            Pending(digest, codes if codes is not None else next(media))
            for digest, codes in zip(hashes, known, strict=True)
        ]

    def finish(self, pending: Sequence[Pending[M]]) -> list[Codes | MediaError]:
        """Second step: encode what is still a medium, each file once."""
        codes: dict[bytes, Codes] = {}
        media: dict[bytes, M] = {}
        unknown = []
        for item in pending:
            if isinstance(item.found, np.ndarray):
                codes[item.hash] = item.found
            elif not isinstance(item.found, MediaError):
                unknown.append(item.hash)
                media[item.hash] = item.found
        # Again, because the batch before this one may have encoded it in the meantime.
        late = zip(unknown, self._lookup(unknown), strict=True)
        codes |= {digest: found for digest, found in late if found is not None}
        fresh = [digest for digest in media if digest not in codes]
        made = self._encode([media[digest] for digest in fresh]) if fresh else []
        for digest, new in zip(fresh, made, strict=True):
            codes[digest] = new
            self._add(digest, new)
        self.encoded += len(fresh)
        self.reused += len(pending) - len(fresh)
        return [p.found if isinstance(p.found, MediaError) else codes[p.hash] for p in pending]

    def commit(self) -> None:
        """Publish what was added to the cache."""
        if self._cache is not None:  # an empty one is false
            with self._lock:
                self._cache.commit()

    def _lookup(self, hashes: Sequence[bytes]) -> list[Codes | None]:
        if self._cache is None:
            return [None] * len(hashes)
        with self._lock:
            return [found.codes if found else None for found in self._cache.lookup(hashes)]

    def _add(self, digest: bytes, codes: Codes) -> None:
        if self._cache is not None:  # an empty one is false
            with self._lock:
                self._cache.add(digest, codes, self._height)

    def _decode_one(self, file: File) -> M | MediaError:
        try:
            return self._decode(file.data, file.name)
        except MediaError as error:
            return error
