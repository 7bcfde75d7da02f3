"""WebDataset tars: one tar is one partition, a run of members that share a name is one row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from omni_diffusion.corpus.media import (
    IMG2DATASET,
    OURS,
    MediaLayout,
    MediaSample,
    read_media_tar,
)
from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.record import Record
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.errors import CorpusError, RecordError, StorageError
from omni_diffusion.pipelines.sources.columns import RecordMaker, with_defaults
from omni_diffusion.pipelines.sources.files import check_unchanged, find_files
from omni_diffusion.pipelines.sources.partition import Partition
from omni_diffusion.pipelines.sources.planned import Part, PlannedSource
from omni_diffusion.pipelines.sources.recipe import MediaTarsRecipe, Paths, TarsRecipe
from omni_diffusion.pipelines.sources.rows import BrokenRow, Refusal, Row, refused, row_key

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

LAYOUTS = {
    "img2dataset": IMG2DATASET,
    "blip3o": MediaLayout(
        fields={name: IMG2DATASET.fields[name] for name in ("image", "caption")},
        required=("image",),
    ),
    "emilia": MediaLayout(
        fields={"audio": ("mp3", "flac", "wav", "ogg"), "metadata": ("json",)},
        required=("audio", "metadata"),
    ),
}


class MediaTarsSource(PlannedSource):
    """Our own media corpora, whose records come whole."""

    def __init__(self, recipe: MediaTarsRecipe) -> None:
        super().__init__(recipe.limit)
        self._recipe = recipe

    def parts(self) -> Iterator[Part]:
        """The tars."""
        return _parts(self._recipe.path)

    def outcomes(self, partition: Partition) -> Iterator[MediaRecord | Reject]:
        """The records of one tar."""
        for number, sample in enumerate(_samples(OURS, **partition.spec)):
            key = row_key(self._recipe.source, partition.number, number)
            if isinstance(sample, BrokenRow):
                yield refused(key, sample.origin, sample)
                continue
            origin, fields = sample
            try:
                yield self._item(key, origin, fields)
            except (Refusal, RecordError) as error:
                yield refused(key, origin, error)

    def _item(self, key: str, origin: str, sample: MediaSample) -> MediaRecord:
        record = Record.from_json(sample.fields["record"], key)
        images = tuple(_medium(sample, f"image{i}") for i in range(len(record.images)))
        audios = tuple(_medium(sample, f"audio{i}") for i in range(len(record.audios)))
        record = with_defaults(record, self._recipe, origin)
        return MediaRecord(key=key, record=record, images=images, audios=audios)


class TarsSource(PlannedSource):
    """Other people's tars, read through a column map."""

    def __init__(self, recipe: TarsRecipe) -> None:
        super().__init__(recipe.limit)
        self._recipe = recipe
        self._layout = LAYOUTS.get(recipe.layout) or MediaLayout(fields=recipe.members)
        self._maker = RecordMaker(recipe.row_settings())

    def parts(self) -> Iterator[Part]:
        """The tars."""
        return _parts(self._recipe.path)

    def outcomes(self, partition: Partition) -> Iterator[MediaRecord | Reject]:
        """The records of one tar."""
        samples = _samples(self._layout, **partition.spec)
        return self._maker.outcomes(partition.number, map(_row, samples))


def _parts(paths: Paths) -> Iterator[Part]:
    for file in find_files(paths, SUFFIXES):
        yield Part(file.name, {"path": file.path, "file_size": file.size}, size=file.size)


def _samples(
    layout: MediaLayout, path: str, file_size: int
) -> Iterator[tuple[str, MediaSample] | BrokenRow]:
    """The samples of one tar, each with its origin.

    A damaged archive is data, not a refusing store: what stands before the damage is used, and
    one broken row names the rest.
    """
    storage, name = check_unchanged(path, file_size)
    try:
        for outcome in read_media_tar(storage, name, layout):
            if isinstance(outcome, Reject):
                origin = f"{name}#{outcome.key}"
                yield BrokenRow(origin, outcome.reason, outcome.detail)
            else:
                yield f"{name}#{outcome.key}", outcome
    except StorageError:
        raise
    except CorpusError as error:
        yield BrokenRow(name, "damaged archive", error.reason)


def _row(sample: tuple[str, MediaSample] | BrokenRow) -> Row | BrokenRow:
    """The fields of a sample as cells: JSON decoded, everything else as `{bytes, path}`."""
    if isinstance(sample, BrokenRow):
        return sample
    origin, found = sample
    cells: dict[str, Any] = {}
    for field, data in found.fields.items():
        member = found.names[field]
        if not member.lower().endswith(".json"):
            cells[field] = {"bytes": data, "path": member}
            continue
        try:
            cells[field] = json.loads(data.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            return BrokenRow(origin, "not UTF-8", f"{member}: {error}")
        except (ValueError, RecursionError) as error:
            return BrokenRow(origin, "not JSON", f"{member}: {error}")
    return Row(cells, origin)


def _medium(sample: MediaSample, field: str) -> bytes:
    data = sample.fields.get(field)
    if data is None:
        raise Refusal("missing media", f"no member for {field}")
    if not data:
        raise Refusal("empty media", sample.names[field])
    return data
