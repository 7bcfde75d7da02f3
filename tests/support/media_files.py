"""Files by number, and what a tokenizer makes of them: enough to fill a media cache."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from omni_diffusion.pipelines.media_cache import MediaCache, content_hash


def hash_of(i: int) -> bytes:
    return content_hash(f"file {i}".encode())


def codes_of(i: int) -> NDArray[np.int64]:
    """What a tokenizer makes of file `i`: pictures of several sizes, and sounds."""
    return np.random.default_rng(i).integers(0, 8192, 4 * (i % 50 + 1))


def height_of(i: int) -> int:
    return 0 if i % 3 == 0 else 4


def add(cache: MediaCache, files: Iterable[int]) -> None:
    for i in files:
        cache.add(hash_of(i), codes_of(i), height_of(i))


def write(root: str | os.PathLike[str], files: Iterable[int], namespace: str) -> None:
    """What a worker does."""
    cache = MediaCache(root, namespace)
    add(cache, files)
    cache.commit()


def known(cache: MediaCache, files: Iterable[int]) -> list[bool]:
    """Which files the cache knows; what it says of them is checked."""
    files = list(files)
    found = cache.lookup([hash_of(i) for i in files])
    for i, entry in zip(files, found, strict=True):
        if entry is not None:
            assert entry.codes.dtype == np.uint16 and entry.height == height_of(i)
            assert np.array_equal(entry.codes, codes_of(i))
    return [entry is not None for entry in found]
