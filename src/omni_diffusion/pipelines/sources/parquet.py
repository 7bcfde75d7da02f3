"""Parquet files: one partition is a range of rows, and only its row groups and columns are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.corpus.storage import RangedFile
from omni_diffusion.errors import SourceError
from omni_diffusion.pipelines.sources.columns import RecordMaker
from omni_diffusion.pipelines.sources.files import File, check_unchanged, find_files
from omni_diffusion.pipelines.sources.partition import Partition
from omni_diffusion.pipelines.sources.planned import Part, PlannedSource
from omni_diffusion.pipelines.sources.recipe import Columns, ParquetRecipe
from omni_diffusion.pipelines.sources.rows import BrokenRow, Row

_BATCH_ROWS = 64
_BUFFER_BYTES = 1 << 20


class ParquetSource(PlannedSource):
    """Rows of parquet files, local or on an object store."""

    def __init__(self, recipe: ParquetRecipe) -> None:
        super().__init__(recipe.limit)
        self._recipe = recipe
        self._maker = RecordMaker(recipe)

    def parts(self) -> Iterator[Part]:
        """Ranges of rows of each file, see `row_ranges`."""
        tasks = len(self._recipe.tasks)
        at_most = max(1, self._recipe.records_per_shard // tasks)
        for file in find_files(self._recipe.path, (".parquet",)):
            groups, row_bytes = self._survey(file)
            for start, stop in row_ranges(groups, at_most):
                yield Part(
                    name=f"{file.name} rows {start}..{stop - 1}",
                    spec={"path": file.path, "file_size": file.size, "start": start, "stop": stop},
                    rows=(stop - start) * tasks,
                    size=round((stop - start) * row_bytes),
                )

    def outcomes(self, partition: Partition) -> Iterator[MediaRecord | Reject]:
        """The records of one range."""
        return self._maker.outcomes(partition.number, self._rows(**partition.spec))

    def _survey(self, file: File) -> tuple[list[int], float]:
        """Rows of each row group, and compressed bytes a row in the columns that are read."""
        with _parquet(file.path, file.size) as (table, _):
            wanted = set(_top_columns(table.schema_arrow, self._recipe.columns, file.path))
            groups = [table.metadata.row_group(i) for i in range(table.num_row_groups)]
            chunks = (group.column(i) for group in groups for i in range(group.num_columns))
            total = sum(
                chunk.total_compressed_size
                for chunk in chunks
                if chunk.path_in_schema.split(".")[0] in wanted or chunk.path_in_schema in wanted
            )
            return [group.num_rows for group in groups], total / max(1, table.metadata.num_rows)

    def _rows(self, path: str, file_size: int, start: int, stop: int) -> Iterator[Row | BrokenRow]:
        name = path.rpartition("/")[2]
        with _parquet(path, file_size) as (table, watched):
            columns = _top_columns(table.schema_arrow, self._recipe.columns, path)
            first = 0
            for group in range(table.num_row_groups):
                count = table.metadata.row_group(group).num_rows
                begin, end = max(start - first, 0), min(stop - first, count)
                if begin < end:
                    batches = table.iter_batches(
                        _BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False
                    )
                    yield from _group_rows(batches, begin, end, f"{name}#", first, watched)
                first += count


def row_ranges(groups: Sequence[int], at_most: int) -> Iterator[tuple[int, int]]:
    """Cut a file into ranges of rows.

    Neighbouring row groups come together as long as they are not too many rows, since reading a
    part of a row group costs nearly as much as the whole. Only one that is too long by itself is
    cut, and its last piece stays alone.

    Args:
        groups: rows of each row group.
        at_most: rows of a range.

    Returns:
        First row and the one behind the last of each range; together they are the whole file.
    """
    start = end = 0
    for rows in groups:
        if end > start and end + rows - start > at_most:
            yield start, end
            start = end
        end += rows
        while end - start > at_most:
            yield start, start + at_most
            start += at_most
            if end - start <= at_most:
                yield start, end
                start = end
    if end > start:
        yield start, end


class _Watched:
    """A file that remembers its own failure: pyarrow reports damage and refusals alike."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.fault: Exception | None = None
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        try:
            data: bytes = self._file.read(size)
            return data
        except Exception as error:
            self.fault = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        at: int = self._file.seek(offset, whence)
        return at

    def tell(self) -> int:
        at: int = self._file.tell()
        return at

    def close(self) -> None:
        """The storage closes the file."""


@contextmanager
def _parquet(path: str, file_size: int) -> Iterator[tuple[pq.ParquetFile, _Watched]]:
    storage, name = check_unchanged(path, file_size)
    # A remote file is asked for exactly the wanted parts, each row group's at once. A local one is
    # read in small pieces instead: a row group of pictures can be larger than memory.
    with storage.open(name) if storage.is_local else RangedFile(storage, name, file_size) as raw:
        watched = _Watched(raw)
        try:
            table = pq.ParquetFile(
                pa.PythonFile(watched, "r"),
                buffer_size=_BUFFER_BYTES,
                pre_buffer=not storage.is_local,
                page_checksum_verification=True,
            )
        except (pa.ArrowException, OSError) as error:
            if watched.fault is not None:
                raise watched.fault from error
            raise SourceError(f"{path}: not a whole parquet file: {error}") from error
        with table:
            yield table, watched


def _top_columns(schema: pa.Schema, columns: Columns, path: str) -> list[str]:
    """The file's columns that the recipe needs, in the file's order."""
    names = set(schema.names)
    wanted = {name if name in names else name.split(".")[0] for name in columns.names()}
    if lacking := sorted(wanted - names):
        have = ", ".join(schema.names)
        raise SourceError(f"{path}: has no column {', '.join(lacking)}; it has {have}")
    return [name for name in schema.names if name in wanted]


def _group_rows(
    batches: Iterator[Any], begin: int, end: int, prefix: str, first: int, watched: _Watched
) -> Iterator[Row | BrokenRow]:
    """Rows `begin` to `end` of one row group; `first` is the group's first row in the file."""
    at = begin
    why = "the row group ends too early"
    try:
        seen = 0
        for batch in batches:
            for i in range(at - seen, min(end - seen, batch.num_rows)):
                yield _row(batch, i, f"{prefix}{first + at}")
                at += 1
            seen += batch.num_rows
            if at == end:
                return
    except (pa.ArrowException, OSError) as error:
        if watched.fault is not None:
            raise watched.fault from error
        why = str(error)
    for row in range(at, end):
        yield BrokenRow(f"{prefix}{first + row}", "damaged row group", why)


def _row(batch: pa.RecordBatch, number: int, origin: str) -> Row | BrokenRow:
    try:
        return Row(batch.slice(number, 1).to_pylist()[0], origin)
    except UnicodeDecodeError as error:
        return BrokenRow(origin, "not UTF-8", str(error))
    except (ValueError, OverflowError) as error:  # dates that Python cannot hold
        return BrokenRow(origin, "unreadable value", str(error))
