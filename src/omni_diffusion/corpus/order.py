"""A shuffle without a list: the n-th element of a permutation, by arithmetic alone.

A balanced Feistel network over the next power of four is a bijection whatever its round function;
positions that land outside `0..n-1` walk on until they land inside. So any part of an epoch's
order can be had without the rest, on any machine, for ever the same: no generator state, no
memory, no dependence on a library's version.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Rows = np.ndarray[Any, np.dtype[np.int64]]

_ROUNDS = 4
_U64 = np.uint64


def mix64(values: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The splitmix64 finaliser (Steele, Lea, Flood 2014): every input bit stirs every output bit.

    Args:
        values: uint64 of any shape.
    """
    values = (values ^ (values >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> _U64(27))) * _U64(0x94D049BB133111EB)
    return values ^ (values >> _U64(31))


def permute(positions: Rows, n: int, seed: int, epoch: int) -> Rows:
    """Elements of the permutation of `0..n-1` that belongs to (seed, epoch).

    Args:
        positions: int64 of any shape, each in `0..n-1`.
        n: how many elements there are.
        seed: any integer.
        epoch: 0, 1, 2, ...: each has an order of its own.

    Returns:
        int64 of the same shape: at which row each position stands.
    """
    half = _U64(max(1, ((max(n, 2) - 1).bit_length() + 1) // 2))
    low = (_U64(1) << half) - _U64(1)
    keys = _round_keys(seed, epoch)
    out = np.asarray(positions, np.int64).astype(np.uint64)
    flat = out.reshape(-1)
    todo = np.arange(flat.size)
    while todo.size:
        left, right = flat[todo] >> half, flat[todo] & low
        for key in keys:
            left, right = right, left ^ (mix64(right ^ key) & low)
        flat[todo] = (left << half) | right
        todo = todo[flat[todo] >= n]
    return flat.reshape(out.shape).astype(np.int64)


def _round_keys(seed: int, epoch: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    golden = 0x9E3779B97F4A7C15
    start = (seed * golden + epoch * 0xD1B54A32D192ED03) % 2**64
    return mix64(np.array([(start + (i + 1) * golden) % 2**64 for i in range(_ROUNDS)], np.uint64))
