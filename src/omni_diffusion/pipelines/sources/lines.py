"""Text files whose lines are rows: cut by one scan, then each range is read by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from omni_diffusion.corpus.storage import Storage

_CHUNK = 8 << 20
_CARRIAGE_RETURN = 13


@dataclass(frozen=True, slots=True)
class LineRange:
    """Some neighbouring lines.

    Attributes:
        start: offset of the first byte.
        end: offset behind the last byte.
        line: number of the first line, as an editor counts, from 1.
        rows: how many lines are not empty.
    """

    start: int
    end: int
    line: int
    rows: int


def cut_lines(
    storage: Storage, name: str, at_most: int, start: int = 0, line: int = 1
) -> Iterator[LineRange]:
    """Ranges of lines; empty lines are no rows.

    Args:
        storage: where the file is.
        name: its name there.
        at_most: rows of a range; every range but the last has exactly so many.
        start: offset at which to begin.
        line: number of the line that begins there.

    Raises:
        StorageError: there is no such file, or the store refused.
    """
    rows, open_line, open_start, range_line = 0, line, start, line
    begin = start  # of the line that is not at its end yet
    last = -1
    with storage.open(name) as file:
        file.seek(start)
        offset = start
        while chunk := file.read(_CHUNK):
            data = np.frombuffer(chunk, np.uint8)
            ends = np.flatnonzero(data == ord("\n"))
            starts = np.concatenate(([begin - offset], ends[:-1] + 1))[: len(ends)]
            firsts = np.where(starts >= 0, data[np.maximum(starts, 0)], last)
            lengths = ends - starts
            full = (lengths > 1) | ((lengths == 1) & (firsts != _CARRIAGE_RETURN))
            counts = rows + np.cumsum(full)
            for i in np.flatnonzero(full & (counts % at_most == 0)).tolist():
                end = offset + int(ends[i]) + 1
                yield LineRange(open_start, end, range_line, at_most)
                open_start, range_line = end, open_line + i + 1
            if len(ends):
                rows = int(counts[-1]) % at_most
                open_line += len(ends)
                begin = offset + int(ends[-1]) + 1
            offset, last = offset + len(chunk), int(data[-1])
    tail = offset - begin
    rows += tail > 1 or (tail == 1 and last != _CARRIAGE_RETURN)
    if rows:
        yield LineRange(open_start, offset, range_line, rows)


def read_lines(
    storage: Storage, name: str, start: int, end: int | None, line: int
) -> Iterator[tuple[int, bytes]]:
    """The lines of one range that are not empty, each with its number and without its end.

    Raises:
        StorageError: there is no such file, or the store refused.
    """
    for number, text in enumerate(storage.read(name, start, end).split(b"\n"), line):
        if bare := text.removesuffix(b"\r"):
            yield number, bare
