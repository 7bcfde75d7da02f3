"""Random numbers without a generator: each is a function of what it is for.

A draw is named by (seed, source, row, epoch, purpose, counter) and made by mixing these integers
with the splitmix64 finaliser. So a sample gets the same noise in any batch, on any rank, after any
restart, and the noise of one sample says nothing of another's.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from omni_diffusion.corpus.order import mix64

Words = NDArray[np.uint64]

GOLDEN: Final = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio: its multiples spread evenly, for any number of them."""

_ROW, _EPOCH, _PURPOSE = (
    np.uint64(odd) for odd in (0xD1B54A32D192ED03, 0x8CB92BA72F3D8DD7, GOLDEN)
)


class Purpose(IntEnum):
    """What a draw decides; draws for different purposes are unrelated."""

    TAIL_PADS = 1
    PROMPT_DROPOUT = 2
    RATIO = 3
    TOKENS = 4
    THRESHOLDS = 5
    TAIL_COUNT = 6
    STEP = 7


def word(*parts: int | str) -> int:
    """A 64-bit number that stands for some names and integers."""
    return xxhash.xxh3_64_intdigest("|".join(map(str, parts)).encode())


def sample_keys(seed: int, sources: Words, rows: NDArray[np.int64], epochs: NDArray[Any]) -> Words:
    """One key for each sample, uint64 [n].

    Args:
        seed: of the run.
        sources: `word(name)` of each sample's source, [n].
        rows: of the sample in its corpus, [n].
        epochs: which pass over its source this is, [n]; evaluation uses -1.
    """
    keys = mix64(sources ^ np.uint64(word("noise", seed)))
    keys = mix64(keys + rows.astype(np.uint64) * _ROW)
    return mix64(keys ^ (epochs.astype(np.int64).astype(np.uint64) * _EPOCH))


def draws(keys: Words, purpose: Purpose, counters: NDArray[Any] | int = 0) -> Words:
    """Uniform 64-bit numbers, one for each (key, counter), broadcast against each other."""
    streams = mix64(keys + np.uint64(purpose * GOLDEN % 2**64))
    count = np.asarray(counters).astype(np.uint64) + np.uint64(1)
    return mix64(streams + count * np.uint64(GOLDEN))


def uniforms(words: Words) -> NDArray[np.float64]:
    """Numbers in (0, 1), never 0 nor 1, from 64-bit ones."""
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
