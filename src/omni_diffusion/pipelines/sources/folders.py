"""Speech data sets as they are unpacked, with transcripts in files of their own.

librispeech    SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt (`ID TEXT` lines), ID.flac beside it
libritts       SPEAKER/CHAPTER/ID.normalized.txt, ID.wav beside it
common_voice   train.tsv (with a header), the sounds in clips/ beside it
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import SourceError
from omni_diffusion.pipelines.sources.columns import RecordMaker
from omni_diffusion.pipelines.sources.files import absolute, check_unchanged, find_files, locate
from omni_diffusion.pipelines.sources.lines import cut_lines, read_lines
from omni_diffusion.pipelines.sources.partition import Partition
from omni_diffusion.pipelines.sources.planned import Part, PlannedSource
from omni_diffusion.pipelines.sources.recipe import Columns, FolderRecipe, RowSettings
from omni_diffusion.pipelines.sources.rows import BrokenRow, Row

_TRANSCRIPTS = {"librispeech": ".trans.txt", "libritts": ".normalized.txt"}
_MAX_HEADER_BYTES = 1 << 16

_COLUMNS = {
    "librispeech": Columns(id="id", text="text", audio="audio", provenance={"speaker": "speaker"}),
    "libritts": Columns(id="id", text="text", audio="audio", provenance={"speaker": "speaker"}),
    "common_voice": Columns(
        id="path",
        text="sentence",
        audio="audio",
        language="locale",
        provenance={"speaker": "client_id", "accent": "accents"},
    ),
}


class FolderSource(PlannedSource):
    """Sound files beside transcripts."""

    def __init__(self, recipe: FolderRecipe) -> None:
        super().__init__(recipe.limit)
        self._recipe = recipe
        self._path = absolute(recipe.path).rstrip("/")
        is_table = recipe.layout == "common_voice"
        root = self._path.rpartition("/")[0] if is_table else self._path
        shared = set(RowSettings.model_fields) & set(FolderRecipe.model_fields)
        settings = {name: getattr(recipe, name) for name in shared}
        settings |= {"columns": _COLUMNS[recipe.layout], "media_root": root}
        self._maker = RecordMaker(RowSettings(**settings))
        self._at_most = max(1, recipe.records_per_shard // len(recipe.tasks))

    def parts(self) -> Iterator[Part]:
        """Ranges of a table's lines, or groups of transcript files."""
        if self._recipe.layout == "common_voice":
            yield from self._table_parts()
            return
        suffix = _TRANSCRIPTS[self._recipe.layout]
        root, tasks = Storage(self._path), len(self._recipe.tasks)
        names = [f.path[len(self._path) + 1 :] for f in find_files(self._path, (suffix,))]
        for group, rows in _groups(((n, self._count(root, n)) for n in names), self._at_most):
            first, last = group[0].removesuffix(suffix), group[-1].removesuffix(suffix)
            yield Part(f"{first} .. {last}", {"transcripts": group}, rows=rows * tasks)

    def outcomes(self, partition: Partition) -> Iterator[MediaRecord | Reject]:
        """The records of one range or group."""
        if self._recipe.layout == "common_voice":
            rows = _table_rows(**partition.spec)
        else:
            rows = self._transcribed(partition.spec["transcripts"])
        return self._maker.outcomes(partition.number, rows)

    def _table_parts(self) -> Iterator[Part]:
        (file,) = find_files(self._path, (".tsv",))
        storage, name = locate(file.path)
        first = storage.read(name, 0, _MAX_HEADER_BYTES).split(b"\n", 1)[0]
        header = first.decode("utf-8-sig", errors="replace").rstrip("\r").split("\t")
        if lacking := sorted({"path", "sentence"} - set(header)):
            raise SourceError(f"{file.path}: the header has no column {', '.join(lacking)}")
        spec = {"path": file.path, "file_size": file.size, "header": header}
        for found in cut_lines(storage, name, self._at_most, start=len(first) + 1, line=2):
            at = {"start": found.start, "end": found.end, "line": found.line}
            yield Part(
                name=f"{file.name} from line {found.line}, {found.rows} rows",
                spec=spec | at,
                rows=found.rows * len(self._recipe.tasks),
            )

    def _count(self, root: Storage, name: str) -> int:
        if self._recipe.layout == "libritts":
            return 1
        return sum(1 for _ in _lines(root, name))

    def _transcribed(self, names: Sequence[str]) -> Iterator[Row | BrokenRow]:
        root = Storage(self._path)
        for name in names:
            folder = name.rpartition("/")[0]
            if self._recipe.layout == "libritts":
                stem = name.removesuffix(_TRANSCRIPTS["libritts"])
                sound = stem.rpartition("/")[2]
                cells = {"audio": f"{stem}.wav", "text": root.read(name), "id": sound}
                yield Row(cells | {"speaker": sound.partition("_")[0]}, name)
                continue
            for number, line in _lines(root, name):
                yield _utterance(line, folder, f"{name}#{number}")


def _lines(storage: Storage, name: str) -> Iterator[tuple[int, bytes]]:
    return read_lines(storage, name, 0, None, 1)


def _groups(units: Iterable[tuple[str, int]], at_most: int) -> Iterator[tuple[list[str], int]]:
    """Neighbours with together at most so many rows; a unit with more stays alone."""
    group: list[str] = []
    total = 0
    for name, rows in units:
        if group and total + rows > at_most:
            yield group, total
            group, total = [], 0
        group.append(name)
        total += rows
    if group:
        yield group, total


def _utterance(line: bytes, folder: str, origin: str) -> Row | BrokenRow:
    """A line `84-121123-0000 GO DO YOU HEAR`."""
    try:
        name, _, text = line.decode().partition(" ")
    except UnicodeDecodeError as error:
        return BrokenRow(origin, "not UTF-8", str(error))
    sound = f"{folder}/{name}.flac" if folder else f"{name}.flac"
    speaker = name.partition("-")[0]
    return Row({"id": name, "speaker": speaker, "text": text, "audio": sound}, origin)


def _table_rows(
    path: str, file_size: int, header: Sequence[str], start: int, end: int, line: int
) -> Iterator[Row | BrokenRow]:
    storage, name = check_unchanged(path, file_size)
    for number, text in read_lines(storage, name, start, end, line):
        yield _table_row(text, header, f"{name}#{number}")


def _table_row(line: bytes, header: Sequence[str], origin: str) -> Row | BrokenRow:
    try:
        fields: list[Any] = line.decode().split("\t")
    except UnicodeDecodeError as error:
        return BrokenRow(origin, "not UTF-8", str(error))
    if len(fields) != len(header):
        reason = f"{len(fields)}, where the header has {len(header)}"
        return BrokenRow(origin, "wrong number of fields", reason)
    cells = dict(zip(header, fields, strict=True))
    return Row(cells | {"audio": f"clips/{cells['path']}"}, origin)
