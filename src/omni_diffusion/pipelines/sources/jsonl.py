"""JSON lines: rows with a column map, or records in the published conversation format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.record import Record
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.errors import RecordError, SourceError
from omni_diffusion.pipelines.sources.columns import RecordMaker, with_defaults
from omni_diffusion.pipelines.sources.files import check_unchanged, find_files, locate
from omni_diffusion.pipelines.sources.lines import cut_lines, read_lines
from omni_diffusion.pipelines.sources.media_folder import MediaFolder, require
from omni_diffusion.pipelines.sources.partition import Partition
from omni_diffusion.pipelines.sources.planned import Part, PlannedSource
from omni_diffusion.pipelines.sources.recipe import ConversationsRecipe, JsonlRecipe, Paths
from omni_diffusion.pipelines.sources.rows import BrokenRow, Refusal, Row, refused, row_key

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")

_MAX_LINE_BYTES = 64 << 20
"""A longer line is no row but a whole file of another format."""


class JsonlSource(PlannedSource):
    """One JSON object a line, read through a column map."""

    def __init__(self, recipe: JsonlRecipe) -> None:
        super().__init__(recipe.limit)
        self._recipe = recipe
        self._maker = RecordMaker(recipe)

    def parts(self) -> Iterator[Part]:
        """Ranges of lines."""
        return _parts(self._recipe.path, self._recipe.records_per_shard, len(self._recipe.tasks))

    def outcomes(self, partition: Partition) -> Iterator[MediaRecord | Reject]:
        """The records of one range."""
        return self._maker.outcomes(partition.number, _rows(**partition.spec))


class ConversationsSource(PlannedSource):
    """One record a line, with its media below one root."""

    def __init__(self, recipe: ConversationsRecipe) -> None:
        super().__init__(recipe.limit)
        self._recipe = recipe
        self._media = None if recipe.media_root is None else MediaFolder(recipe.media_root)

    def parts(self) -> Iterator[Part]:
        """Ranges of lines."""
        return _parts(self._recipe.path, self._recipe.records_per_shard, 1)

    def outcomes(self, partition: Partition) -> Iterator[MediaRecord | Reject]:
        """The records of one range."""
        for number, row in enumerate(_rows(**partition.spec)):
            key = row_key(self._recipe.source, partition.number, number)
            try:
                if isinstance(row, BrokenRow):
                    yield refused(key, row.origin, row)
                else:
                    yield self._item(key, row)
            except (Refusal, RecordError) as error:
                yield refused(key, row.origin, error)

    def _item(self, key: str, row: Row) -> MediaRecord:
        record = with_defaults(Record.from_dict(row.cells, key), self._recipe, row.origin)
        images, audios = (
            tuple(self._read(path) for path in paths) for paths in (record.images, record.audios)
        )
        return MediaRecord(key=key, record=record, images=images, audios=audios)

    def _read(self, path: str) -> bytes:
        data = require(self._media, path).read(path)
        if not data:
            raise Refusal("empty media", path)
        return data


def _parts(paths: Paths, records_per_shard: int, tasks: int) -> Iterator[Part]:
    for file in find_files(paths, (".jsonl", ".ndjson")):
        if file.name.endswith(_COMPRESSED):
            raise SourceError(f"{file.path}: unpack it first: its lines cannot be read apart")
        storage, name = locate(file.path)
        for found in cut_lines(storage, name, max(1, records_per_shard // tasks)):
            yield Part(
                name=f"{file.name} from line {found.line}, {found.rows} rows",
                spec={
                    "path": file.path,
                    "file_size": file.size,
                    "start": found.start,
                    "end": found.end,
                    "line": found.line,
                },
                rows=found.rows * tasks,
                size=found.end - found.start,
            )


def _rows(path: str, file_size: int, start: int, end: int, line: int) -> Iterator[Row | BrokenRow]:
    storage, name = check_unchanged(path, file_size)
    for number, text in read_lines(storage, name, start, end, line):
        yield _row(text, f"{name}#{number}")


def _row(line: bytes, origin: str) -> Row | BrokenRow:
    if len(line) > _MAX_LINE_BYTES:
        return BrokenRow(origin, "line too long", f"{len(line)} bytes")
    try:
        value: Any = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        return BrokenRow(origin, "not UTF-8", str(error))
    except (ValueError, RecursionError) as error:
        return BrokenRow(origin, "not JSON", str(error))
    if not isinstance(value, dict):
        return BrokenRow(origin, "not a JSON object", f"is {type(value).__name__}")
    return Row(value, origin)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
