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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

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

    def bound(self, numbers: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """Ids of the training sequence, at most.

        Args:
            numbers: columns `n_spans` and `*_len` of the index, [n] each.
        """
        spans = numbers["n_spans"]
        codes256, codes512 = IMAGE_CODES.values()
        pictures = numbers["image256_len"] // codes256 + numbers["image512_len"] // codes512
        speech, features = numbers["speech_len"] > 0, numbers["features_len"] > 0
        sounds = (speech | features) * (spans - pictures)
        total = np.zeros(len(spans), np.int64)
        for name in _NUMBERS:
            total += numbers[name]
        total += self.turn * spans
        total += 2 * (pictures + sounds)
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
    for batch in _row_groups(file, path, held_out > 0):
        n = batch.num_rows
        numbers = {name: _array(batch[name]) for name in _COLUMNS[:-1]}
        bound, loss = rule.bound(numbers), numbers["supervised_len"]
        if n and (top := int(bound.max())) > worst:
            worst, worst_row = top, at + int(bound.argmax())
        fits, answers = bound <= longest, loss > 0
        use = fits & answers
        too_long += n - int(np.count_nonzero(fits))
        unsupervised += int(np.count_nonzero(fits & ~answers))
        features += int(numbers["features_len"].sum(dtype=np.int64))
        if held_out:
            use &= ~kept.take(at, _array(batch["content_hash"]), use, bound)
        length[at : at + n] = np.where(use, bound, 0)
        supervised[at : at + n] = np.where(use, loss, 0)
        task[at : at + n] = _codes(batch["task"], names, path)
        new = np.flatnonzero(np.diff(numbers["shard"], prepend=last_shard))
        last_shard = int(numbers["shard"][-1])
        shards.append(numbers["shard"][new])
        starts.append(at + new)
        at += n
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


class _HeldOut:
    """Rows whose content hash lies in the lowest part of all hashes."""

    def __init__(self, share: float) -> None:
        self._limit = np.uint64(int(share * 2**63))
        self._found: list[tuple[Any, ...]] = []

    def take(
        self, start: int, hashes: NDArray[Any], use: NDArray[np.bool_], bound: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which of some rows are kept, remembering those that evaluation can use."""
        mixed = mix64(hashes.astype(np.uint64) ^ np.uint64(word("held out"))) >> np.uint64(1)
        kept: NDArray[np.bool_] = mixed < self._limit
        at = np.flatnonzero(kept & use)
        self._found.append((mixed[at], start + at, bound[at]))
        return kept

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
        numbers = range(file.metadata.num_row_groups)
        read = partial(file.read_row_group, columns=columns)
        waiting = deque(ahead.submit(read, number) for number in numbers[:1])
        for number in numbers:
            if number + 1 in numbers:
                waiting.append(ahead.submit(read, number + 1))
            try:
                yield waiting.popleft().result()
            except (pa.ArrowException, OSError) as error:
                raise CorpusError(path, f"damaged, or not Parquet: {error}") from None


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
