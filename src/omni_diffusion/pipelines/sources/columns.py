"""From rows to records: columns become messages and media as the recipe declares."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.record import Message, Record
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.errors import RecordError
from omni_diffusion.pipelines.sources.cleanup import clean, place_media
from omni_diffusion.pipelines.sources.forms import ANSWER_AUDIO, FORMS, PROMPT
from omni_diffusion.pipelines.sources.media_folder import MediaFolder, require
from omni_diffusion.pipelines.sources.recipe import RecordSettings, RowSettings
from omni_diffusion.pipelines.sources.rows import BrokenRow, Refusal, Row, refused, row_key
from omni_diffusion.tokenize.prompts import task_messages


class RecordMaker:
    """Makes the records of rows.

    Args:
        settings: what the recipe says.
        media: where media that rows name by path are.
    """

    def __init__(self, settings: RowSettings, media: MediaFolder | None = None) -> None:
        self._settings = settings
        if media is None and settings.media_root is not None:
            media = MediaFolder(settings.media_root)
        self._media = media

    def outcomes(
        self, partition: int, rows: Iterable[Row | BrokenRow]
    ) -> Iterator[MediaRecord | Reject]:
        """One item or reject for each row and task, in order.

        Raises:
            SourceError: a row names a file, and the recipe no `media_root`.
            StorageError: the store of the media refused.
        """
        settings = self._settings
        suffixes = settings.tasks if len(settings.tasks) > 1 else ("",)
        for number, row in enumerate(rows):
            cells = None if isinstance(row, BrokenRow) else _Cells(row.cells, settings, self._media)
            for task, suffix in zip(settings.tasks, suffixes, strict=True):
                key = row_key(settings.source, partition, number, suffix)
                try:
                    if cells is None:
                        yield refused(key, row.origin, row)  # type: ignore[arg-type]
                    elif settings.columns.conversations is not None:
                        yield cells.conversation(key, task, row.origin)
                    else:
                        yield cells.single(key, task, row.origin)
                except (Refusal, RecordError) as error:
                    yield refused(key, row.origin, error)


def with_defaults(record: Record, settings: RecordSettings, origin: str) -> Record:
    """A record that came whole, with what the recipe says where it says nothing itself."""
    return replace(
        record,
        source=record.source or settings.source,
        license=record.license or settings.license,
        language=record.language or settings.language,
        provenance={"origin": origin, **record.provenance},
    )


class _Cells:
    """One row, read through the recipe's columns; media are read once, whatever the tasks."""

    def __init__(
        self, cells: Mapping[str, Any], settings: RowSettings, media: MediaFolder | None
    ) -> None:
        self._cells, self._settings, self._folder = cells, settings, media
        self._columns = settings.columns
        self._read: dict[str, list[tuple[str, bytes]]] = {}

    def single(self, key: str, task: str, origin: str) -> MediaRecord:
        """The record of a task whose parts stand in columns of their own."""
        form = FORMS[task]
        names = [n for n in form.media if n != ANSWER_AUDIO or self._columns.answer_audio]
        media = {name: self._one_medium(name) for name in names}
        answer = form.answers
        if answer in type(self._columns).model_fields:
            answer = self._text(answer)
            if ANSWER_AUDIO in media:
                answer += "\n<|audio|>"
        asked = self._prompt(key) if form.asks == PROMPT else form.asks and self._text(form.asks)
        messages = [*task_messages(task, asked), {"role": "assistant", "content": answer}]
        images = [medium for name, medium in media.items() if name == "image"]
        audios = [medium for name, medium in media.items() if name != "image"]
        return self._item(key, task, origin, messages, images, audios)

    def conversation(self, key: str, task: str, origin: str) -> MediaRecord:
        """The record of a row that holds all its turns in one column."""
        turns = self._cell("conversations")
        if turns is None:
            raise Refusal("missing conversations")
        if not isinstance(turns, list):
            raise _wrong_type("conversations", turns)
        messages = [self._turn(turn) for turn in turns]
        images, audios = self._all_media("image"), self._all_media("audio")
        return self._item(key, task, origin, messages, images, audios)

    def _item(
        self,
        key: str,
        task: str,
        origin: str,
        messages: list[dict[str, str]],
        images: list[tuple[str, bytes]],
        audios: list[tuple[str, bytes]],
    ) -> MediaRecord:
        settings, columns = self._settings, self._columns
        record = Record(
            messages=tuple(Message(**message) for message in messages),
            images=tuple(name for name, _ in images),
            audios=tuple(name for name, _ in audios),
            task=task,
            source=settings.source,
            license=settings.license,
            language=self._label("language", columns.language) or settings.language,
            provenance={"origin": self._label("id", columns.id) or origin, **self._provenance()},
            quality=self._quality(),
        )
        record.validate(key)
        return MediaRecord(
            key=key,
            record=record,
            images=tuple(data for _, data in images),
            audios=tuple(data for _, data in audios),
        )

    def _turn(self, turn: object) -> dict[str, str]:
        if not isinstance(turn, Mapping):
            raise _wrong_type("conversations", turn)
        role, content = (
            turn.get(a, turn.get(b)) for a, b in (("role", "from"), ("content", "value"))
        )
        if not isinstance(role, str) or not isinstance(content, str):
            raise Refusal("wrong type: conversations", "a turn without role or content")
        return {"role": role, "content": place_media(content, self._settings.markers)}

    def _prompt(self, key: str) -> str:
        prompts = self._settings.caption_prompts
        return prompts[zlib.crc32(key.encode()) % len(prompts)]

    def _text(self, field: str) -> str:
        value = self._cell(field)
        if value is None:
            raise Refusal(f"missing {field}")
        if isinstance(value, Mapping):  # a text file, as tars hold them
            value = value.get("bytes", value)
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError as error:
                raise Refusal("not UTF-8", f"{field}: {error}") from None
        if not isinstance(value, str):
            raise _wrong_type(field, value)
        text = clean(value.strip(), self._settings.clean)
        if not text:
            raise Refusal(f"empty {field}")
        return text

    def _one_medium(self, field: str) -> tuple[str, bytes]:
        media = self._all_media(field)
        if not media:
            raise Refusal(f"missing {field}")
        if len(media) > 1:
            raise Refusal(f"several of {field}", f"{len(media)}, where the task takes one")
        return media[0]

    def _all_media(self, field: str) -> list[tuple[str, bytes]]:
        """Names and bytes of every medium of a column; [] where it is null or not mapped."""
        if field not in self._read:
            value = self._cell(field)
            values = value if isinstance(value, list) else [value]
            self._read[field] = [self._medium(field, v) for v in values if v is not None]
        return self._read[field]

    def _medium(self, field: str, value: object) -> tuple[str, bytes]:
        path = value if isinstance(value, str) else None
        data = value if isinstance(value, bytes) else None
        if isinstance(value, Mapping):
            path, data = value.get("path"), value.get("bytes")
        if data is None and path is None and not isinstance(value, Mapping):
            raise _wrong_type(field, value)
        if not isinstance(path, str | None) or not isinstance(data, bytes | None):
            raise _wrong_type(field, value)
        if data is None:
            if not path:
                raise Refusal(f"missing {field}", "neither bytes nor a path")
            data = require(self._folder, path).read(path)
        if not data:
            raise Refusal(f"empty {field}")
        return (path or "").rpartition("/")[2] or field, data

    def _provenance(self) -> dict[str, str]:
        found = ((n, self._label(n, c)) for n, c in sorted(self._columns.provenance.items()))
        return {name: value for name, value in found if value}

    def _label(self, name: str, column: str | None) -> str:
        """A short text or number as text; "" where it is null."""
        value = None if column is None else _lookup(self._cells, column)
        if not isinstance(value, str | int | float | None):
            raise _wrong_type(name, value)
        return "" if value is None else str(value)

    def _quality(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, column in sorted(self._columns.quality.items()):
            value = _lookup(self._cells, column)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _wrong_type(name, value)
            try:
                number = float(value)
            except OverflowError:
                raise Refusal(f"number too large: {name}") from None
            if math.isfinite(number):  # NaN is how tables without nulls say that there is none
                found[name] = number
        return found

    def _cell(self, field: str) -> Any:
        column = getattr(self._columns, field)
        return None if column is None else _lookup(self._cells, column)


def _lookup(cells: Mapping[str, Any], column: str) -> Any:
    """A cell by its column's name, or by the dotted path into one; None where there is none."""
    if column in cells:
        return cells[column]
    value: Any = cells
    for part in column.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def _wrong_type(field: str, value: object) -> Refusal:
    return Refusal(f"wrong type: {field}", f"{field} is {type(value).__name__}")
