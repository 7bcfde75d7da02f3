"""Samples into rows: best fit, longest first.

Each sample goes into the row that it fills best among those that can take it. Longest first, the
short samples are left to close the gaps. Samples of one length are laid at once: the rows that fit
them best take as many as they can hold, which is what laying them one by one would come to.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack(
    lengths: NDArray[np.integer[Any]], row_length: int, rows: int
) -> tuple[NDArray[np.int64], int]:
    """Lay samples into rows of a fixed length.

    Args:
        lengths: ids of each sample, [n], each from 1 to `row_length`.
        row_length: room of a row.
        rows: how many there are; more are added only where these do not suffice.

    Returns:
        For each sample its row (int64 [n]), and the number of rows: `rows`, or more.
    """
    if len(lengths) and not 1 <= int(lengths.min()) <= int(lengths.max()) <= row_length:
        raise ValueError(f"lengths from {lengths.min()} to {lengths.max()} in rows of {row_length}")
    with_room: dict[int, list[int]] = defaultdict(list)
    with_room[row_length] = list(range(rows - 1, -1, -1))
    amounts = [row_length] if rows else []  # those of which `with_room` has rows, ascending
    placed: list[int] = []
    values, counts = np.unique(lengths, return_counts=True)
    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while count:
            at = bisect_left(amounts, length)
            if at == len(amounts):
                amounts.append(row_length)
                with_room[row_length].append(rows)
                rows += 1
            room = amounts[at]
            each = min(room // length, count)
            fitting = with_room[room]
            taken = fitting[-(count // each) :]
            del fitting[-len(taken) :]
            if not fitting:
                del amounts[at]
            others = with_room[room - each * length]
            if not others:
                insort(amounts, room - each * length)
            others += taken
            placed += taken * each
            count -= each * len(taken)
    row_of = np.empty(len(lengths), np.int64)
    row_of[np.argsort(-lengths.astype(np.int64), kind="stable")] = placed
    return row_of, rows
