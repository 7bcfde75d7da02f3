"""Sources to test with: recipes from plain settings, and everything that comes out of them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.record import check_key
from omni_diffusion.corpus.rejects import Reject, encode_rejects
from omni_diffusion.pipelines.sources import SourceRecipe, open_source
from omni_diffusion.pipelines.sources.partition import Partition, Source
from omni_diffusion.recipe import Recipe, load_recipe

Outcome = MediaRecord | Reject


class SourceFile(Recipe):
    """A recipe file that holds a source only."""

    source: SourceRecipe


def recipe_of(folder: Path, **settings: Any) -> SourceRecipe:
    """The recipe of a source, by way of a file as users write it."""
    file = folder / ".source.yaml"
    file.write_text(yaml.safe_dump({"source": {"source": "set", **settings}}))
    return load_recipe(file, SourceFile).source


def source_of(folder: Path, **settings: Any) -> Source:
    """A source from plain settings."""
    return open_source(recipe_of(folder, **settings))


def read_all(source: Source) -> list[Outcome]:
    """Everything that comes out of a source, after checks of what every source promises.

    Partitions are numbered without gaps, survive a journey as JSON, give as many outcomes as they
    say, and no two records have one key.
    """
    found: list[Outcome] = []
    for number, partition in enumerate(source.partitions()):
        assert partition.number == number
        travelled = json.loads(json.dumps(dict(partition.spec)))
        outcomes = list(source.read(replaced(partition, spec=travelled)))
        assert partition.rows in (None, len(outcomes))
        found += outcomes
    keys = [outcome.key for outcome in found]
    assert len(set(keys)) == len(keys)
    for key in keys:
        check_key(key)
    encode_rejects([outcome for outcome in found if isinstance(outcome, Reject)])
    for outcome in found:
        if isinstance(outcome, MediaRecord):
            outcome.record.validate(outcome.key)
            assert len(outcome.images) == len(outcome.record.images)
            assert len(outcome.audios) == len(outcome.record.audios)
            outcome.record.to_json()
    return found


def replaced(partition: Partition, **changes: Any) -> Partition:
    """The same partition with other fields."""
    fields = {name: getattr(partition, name) for name in Partition.__dataclass_fields__}
    return Partition(**fields | changes)


def told(outcomes: Sequence[Outcome]) -> list[str]:
    """Each outcome in one word: `item`, or the reason of the reject."""
    return ["item" if isinstance(o, MediaRecord) else o.reason for o in outcomes]


def texts(outcome: Outcome) -> list[str]:
    """Role and content of each message of an item."""
    assert isinstance(outcome, MediaRecord), outcome
    return [f"{m.role}: {m.content}" for m in outcome.record.messages]


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    """An ordinary tar."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_jsonl(path: Path, rows: Sequence[object]) -> None:
    """One JSON text a line; bytes are written as they are."""
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
