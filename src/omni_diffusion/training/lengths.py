"""What the plan knows of a corpus: two numbers and a task for each row, from its index alone.

A training sequence is longer than the content that the index counts: every turn has a header and
an end, every picture or sound two tokens around it, features four queries more
(`tokenize.chat.ChatTemplate`). The index does not say how many turns and sounds a sample has, only
how many spans, so the length here is an **upper bound**, exact for samples without sound in which
every span is a turn of its own (text, text to image), and else a few ids too long:

    spans n, pictures p (exact: their codes divided by 256 or 1,024), sounds s <= n - p
    length <= content + n * longest turn + 2 (p + s) + 4 * (sounds with features)

A loader checks every sample against it. Rows that training shall not see get length 0: kept for
evaluation, too long for a row, or without anything to predict.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from omni_diffusion.corpus.order import mix64
from omni_diffusion.errors import CorpusError
from omni_diffusion.tokenize.chat import IMAGE_CODES, SENSEVOICE_QUERIES, ChatTemplate, Role
from omni_diffusion.training.noise import word

_NUMBERS = ("text_len", "image256_len", "image512_len", "speech_len", "features_len")
_COLUMNS = (*_NUMBERS, "n_spans", "supervised_len", "shard", "task")
_MOST_TASKS = 255
_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """A corpus, row by row. 5 bytes a row: a hundred million rows take half a gigabyte.

    Attributes:
        length: uint16 [rows], ids of the training sequence without tail pads, at most; 0 where
            training does not use the row.
        supervised: uint16 [rows], stored rows of assistant spans (the index's `supervised_len`),
            which is what mixture weights count; 0 where `length` is.
        task: uint8 [rows], index into `tasks`.
        tasks: names of tasks; `other` for records that name none.
        shards: int32 [shards], numbers of the shards in the order of the index.
        starts: int64 [shards + 1], first row of each, and the number of rows.
        held_out: int64 [k], rows that were kept for evaluation, in an order of their own.
        held_out_length: uint16 [k], their lengths.
        too_long: how many rows are longer than a row of the batch.
        longest: ids of the longest row.
        longest_row: which one that is.
        unsupervised: how many rows have nothing to predict.
        features: frames of continuous speech in all rows together.
    """

    length: NDArray[np.uint16]
    supervised: NDArray[np.uint16]
    task: NDArray[np.uint8]
    tasks: tuple[str, ...]
    shards: NDArray[np.int32]
    starts: NDArray[np.int64]
    held_out: NDArray[np.int64]
    held_out_length: NDArray[np.uint16]
    too_long: int
    longest: int
    longest_row: int
    unsupervised: int
    features: int

    @property
    def rows(self) -> int:
        """Rows of the index."""
        return len(self.length)

    @property
    def used(self) -> int:
        """Rows that training uses."""
        return int(np.count_nonzero(self.length))


@dataclass(frozen=True, slots=True)
class LengthRule:
    """How many ids the template adds.

    Attributes:
        turn: header and end of the longest kind of turn.
    """

    turn: int

    @classmethod
    def of(cls, template: ChatTemplate) -> LengthRule:
        """The rule of a template, measured on empty turns."""
        empty = [np.array([[0, role, 0, 0, 0]], np.int32) for role in Role]
        return cls(max(template.length(spans) for spans in empty))

    def bound(self, numbers: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """Ids of the training sequence, at most.

        Args:
            numbers: columns `n_spans` and `*_len` of the index, [n] each.
        """
        spans = numbers["n_spans"]
        codes256, codes512 = IMAGE_CODES.values()
        pictures = numbers["image256_len"] // codes256 + numbers["image512_len"] // codes512
        speech, features = numbers["speech_len"] > 0, numbers["features_len"] > 0
        sounds = spans - pictures
        sounds *= speech | features
        total: NDArray[Any] = self.turn * spans + 2 * (pictures + sounds)
        for name in _NUMBERS:
            total += numbers[name]
        if features.any():  # speech takes one of the sounds at least
            total += SENSEVOICE_QUERIES * features * (sounds - speech)
        return total


def read_lengths(
    file: pq.ParquetFile,
    path: object,
    rule: LengthRule,
    *,
    longest: int,
    held_out: float = 0.0,
    samples: int = 0,
) -> Lengths:
    """Read an index, one row group at a time.

    Args:
        file: `index.parquet` of a corpus.
        path: named in errors.
        rule: of the template.
        longest: what fits into a row beside the longest tail.
        held_out: part of the rows to keep for evaluation. Which ones depends on `content_hash`, so
            samples of equal tokens are kept or trained on together.
        samples: how many held-out rows to remember.

    Raises:
        CorpusError: the index lacks columns, is damaged, or names more than 255 tasks.
    """
    rows = file.metadata.num_rows
    length, supervised = np.zeros(rows, np.uint16), np.zeros(rows, np.uint16)
    task = np.zeros(rows, np.uint8)
    names: dict[str | None, int] = {}
    shards, starts, kept = [np.empty(0, np.int32)], [np.empty(0, np.int64)], _HeldOut(held_out)
    too_long = unsupervised = features = worst = worst_row = at = 0
    last_shard = -1
    for table in _row_groups(file, path, held_out > 0):
        part = _part(table, rule, longest, kept)
        stop = at + len(part.length)
        if part.worst > worst:
            worst, worst_row = part.worst, at + part.worst_row
        too_long += part.too_long
        unsupervised += part.unsupervised
        features += part.features
        length[at:stop], supervised[at:stop] = part.length, part.supervised
        task[at:stop] = _codes(part.task, names, path)
        kept.remember(at, part.held_out)
        new = part.new_shards[0 if int(part.shards[0]) != last_shard else 1 :]
        last_shard = int(part.shards[-1])
        shards.append(part.shards[new])
        starts.append(at + new)
        at = stop
    held_rows, held_lengths = kept.first(samples)
    return Lengths(
        length=length,
        supervised=supervised,
        task=task,
        tasks=tuple(name or "other" for name in names),
        shards=np.concatenate(shards).astype(np.int32),
        starts=np.concatenate([*starts, [rows]]).astype(np.int64),
        held_out=held_rows,
        held_out_length=held_lengths,
        too_long=too_long,
        longest=worst,
        longest_row=worst_row,
        unsupervised=unsupervised,
        features=features,
    )


class _Part(NamedTuple):
    """What one row group adds to `Lengths`, its rows counted from 0.

    `new_shards` are the rows at which a shard begins, the first one among them; `held_out` holds
    hashes, rows and lengths of what evaluation can use.
    """

    length: NDArray[np.uint16]
    supervised: NDArray[np.uint16]
    task: pa.ChunkedArray
    shards: NDArray[np.int32]
    new_shards: NDArray[np.int64]
    held_out: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
    too_long: int
    unsupervised: int
    features: int
    worst: int
    worst_row: int


def _part(batch: pa.Table, rule: LengthRule, longest: int, kept: _HeldOut) -> _Part:
    numbers = {name: _array(batch[name]) for name in _COLUMNS[:-1]}
    bound, loss, shards = rule.bound(numbers), numbers["supervised_len"], numbers["shard"]
    fits = bound <= longest
    use = fits & (loss > 0)
    fitting = int(np.count_nonzero(fits))
    unsupervised = fitting - int(np.count_nonzero(use))
    held: tuple[NDArray[Any], ...] = (np.empty(0, np.uint64), np.empty(0, np.int64), bound[:0])
    if kept.share:
        hashes, mine = kept.choose(_array(batch["content_hash"]))
        at = np.flatnonzero(mine & use)
        held = hashes[at], at, bound[at]
        use &= ~mine
    worst_row = int(bound.argmax())
    return _Part(
        length=(bound * use).astype(np.uint16),
        supervised=(loss * use).astype(np.uint16),
        task=batch["task"],
        shards=shards,
        new_shards=np.append(0, np.flatnonzero(shards[1:] != shards[:-1]) + 1),
        held_out=(held[0], held[1], held[2]),
        too_long=len(bound) - fitting,
        unsupervised=unsupervised,
        features=int(numbers["features_len"].sum(dtype=np.int64)),
        worst=int(bound[worst_row]),
        worst_row=worst_row,
    )


class _HeldOut:
    """Rows whose content hash lies in the lowest part of all hashes."""

    def __init__(self, share: float) -> None:
        self.share = share
        self._limit = np.uint64(int(share * 2**63))
        self._found: list[tuple[NDArray[Any], ...]] = []

    def choose(self, hashes: NDArray[Any]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Hashes mixed anew, and which rows are kept from training."""
        mixed = mix64(hashes.astype(np.uint64) ^ np.uint64(word("held out"))) >> np.uint64(1)
        return mixed, mixed < self._limit

    def remember(self, start: int, found: tuple[NDArray[Any], ...]) -> None:
        """Keep those of a part that begins at row `start`."""
        mixed, rows, lengths = found
        self._found.append((mixed, start + rows, lengths))

    def first(self, samples: int) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
        """Rows of the lowest hashes, and their lengths."""
        if not self._found:
            return np.empty(0, np.int64), np.empty(0, np.uint16)
        mixed, rows, lengths = (np.concatenate(part) for part in zip(*self._found, strict=True))
        order = np.lexsort((rows, mixed))[:samples]
        return rows[order].astype(np.int64), lengths[order].astype(np.uint16)


def _row_groups(file: pq.ParquetFile, path: object, hashes: bool) -> Iterator[pa.Table]:
    columns = [*_COLUMNS, "content_hash"] if hashes else [*_COLUMNS]
    if missing := sorted(set(columns) - set(file.schema_arrow.names)):
        raise CorpusError(path, f"has no column {missing[0]}; run verify --rebuild-index")
    with ThreadPoolExecutor(1) as ahead:  # reading and arithmetic side by side
        numbers = deque(range(file.metadata.num_row_groups))
        read = partial(file.read_row_group, columns=columns)
        waiting: deque[Future[pa.Table]] = deque()
        while numbers or waiting:
            while numbers and len(waiting) < _AHEAD:
                waiting.append(ahead.submit(read, numbers.popleft()))
            try:
                table = waiting.popleft().result()
            except (pa.ArrowException, OSError) as error:
                raise CorpusError(path, f"damaged, or not Parquet: {error}") from None
            if table.num_rows:
                yield table


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column without nulls as numpy, without the detour over pandas."""
    return np.from_dlpack(column.combine_chunks())


def _codes(column: pa.ChunkedArray, names: dict[str | None, int], path: object) -> NDArray[Any]:
    """Number of each row's task, adding names as they appear."""
    encoded = column.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode(null_encoding="encode")
    table = [names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()]
    if len(names) > _MOST_TASKS:
        raise CorpusError(path, f"names more than {_MOST_TASKS} tasks")
    indices = encoded.indices
    if indices.null_count:
        table.append(names.setdefault(None, len(names)))
        indices = indices.fill_null(len(table) - 1)
    codes: NDArray[np.uint8] = np.array(table, np.uint8)[np.from_dlpack(indices)]
    return codes
