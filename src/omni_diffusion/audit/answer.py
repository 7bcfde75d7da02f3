"""Answers as text and files: a table to read, CSV, JSON, Parquet."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from omni_diffusion.audit.guard import QueryError
from omni_diffusion.corpus.storage import Storage

Format = Literal["table", "csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = ("table", "csv", "json", "parquet")

_WIDEST = 60
"""Characters of a cell of a printed table."""

_PAPER = 10_000
"""Columns of what is no terminal: a table is as wide as it is."""


def choose_format(form: Format | None, out: str) -> Format:
    """The format that was asked for by name, or else by the name of the file.

    Raises:
        QueryError: the name ends with none of `.csv`, `.json`, `.parquet`, `.txt`.
    """
    if form is not None:
        return form
    known = {name: name for name in FORMATS}
    suffix = PurePosixPath(out).suffix.removeprefix(".")
    if not out or suffix == "txt":
        return "table"
    if suffix in known:
        return known[suffix]
    raise QueryError(f"{out}: say with --format what it shall be: {', '.join(FORMATS)}")


def save(reader: pa.RecordBatchReader, form: Format, target: str) -> int:
    """Write an answer to a file or URL; it appears whole or not at all. Returns its rows.

    Args:
        reader: the rows.
        form: of the file.
        target: path or URL; an older file is replaced.

    Raises:
        QueryError: the format cannot hold a column.
        StorageError: the place cannot be written.
    """
    if form == "parquet":
        with _saved(target) as path:
            return _write_parquet(reader, path)
    with save_text(target) as file:
        return write_text(reader, form, file, limit=0)


@contextmanager
def save_text(target: str) -> Iterator[IO[str]]:
    """A text file that appears at a path or URL, whole, when the block ends well.

    Raises:
        StorageError: the place cannot be written.
    """
    with _saved(target) as path, path.open("w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def _saved(target: str) -> Iterator[Path]:
    folder, _, name = target.rpartition("/")
    storage = Storage(folder or ("/" if target.startswith("/") else "."))
    with storage.temporary(name) as path:
        yield path
        storage.publish(path, name, replace=True)


def write_text(reader: pa.RecordBatchReader, form: Format, file: IO[str], limit: int = 0) -> int:
    """Write an answer as text; returns how many rows were written.

    Args:
        reader: the rows.
        form: any but `parquet`.
        file: where to.
        limit: rows of a table; 0 for all. CSV and JSON are never cut.

    Raises:
        QueryError: the form is `parquet`, which is not text.
    """
    if form == "table":
        return write_table(reader, file, limit)
    if form == "parquet":
        raise QueryError("parquet is not text: name a file with -o")
    rows = 0
    if form == "csv":
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(reader.schema.names)
        for row in _rows(reader):
            writer.writerow([_flat(value) for value in row])
            rows += 1
        return rows
    names = reader.schema.names
    for rows, row in enumerate(_rows(reader), 1):
        line = json.dumps(dict(zip(names, map(plain, row), strict=True)), ensure_ascii=False)
        file.write(("[\n" if rows == 1 else ",\n") + line)
    file.write("\n]\n" if rows else "[]\n")
    return rows


def write_table(reader: pa.RecordBatchReader, file: IO[str], limit: int = 0) -> int:
    """Print an answer as a table: numbers to the right, long texts cut. Returns the rows shown.

    Args:
        reader: the rows.
        file: a terminal, whose width it keeps to, or anything else.
        limit: rows at most; 0 for all.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for field in reader.schema:
        number = _is_number(field.type)
        table.add_column(
            Text(printable(field.name)), justify="right" if number else "left", no_wrap=number
        )
    shown = 0
    more = False
    for row in _rows(reader):
        if more := bool(limit and shown == limit):
            break
        table.add_row(*(Text(_cell(value)) for value in row))
        shown += 1
    Console(file=file, width=None if file.isatty() else _PAPER).print(table)
    if more:
        file.write(f"… more rows follow: only {limit} are shown (--limit 0 shows all)\n")
    else:
        file.write(f"({shown} row{'' if shown == 1 else 's'})\n")
    return shown


def plain(value: Any) -> Any:
    """A value of an answer as JSON can say it; what is not finite becomes null."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value) if isinstance(value, timedelta) else repr(value)


def printable(text: str) -> str:
    """Control characters spelled out: a caption must not command the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def _rows(reader: pa.RecordBatchReader) -> Iterator[tuple[Any, ...]]:
    for batch in reader:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _flat(value: Any) -> Any:
    value = plain(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _cell(value: Any) -> str:
    value = plain(value)
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = printable(text.replace("\n", "\\n"))
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _is_number(kind: pa.DataType) -> bool:
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(check(kind) for check in checks)


def _write_parquet(reader: pa.RecordBatchReader, path: Path) -> int:
    rows = 0
    try:
        with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)
                rows += batch.num_rows
    except pa.ArrowException as error:
        raise QueryError(f"cannot be written as Parquet: {error}") from None
    return rows
