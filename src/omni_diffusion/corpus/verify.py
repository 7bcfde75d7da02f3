"""Walk a whole corpus and list everything that is not as it should be.

Shards are checked in several processes: each is hashed, walked header by header, and every sidecar
row is made again from the bytes and compared.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from omni_diffusion.corpus.checking import (
    Problem,
    Progress,
    Report,
    local,
    local_tar,
    map_shards,
)
from omni_diffusion.corpus.index import (
    INDEX,
    KeySet,
    compact,
    corpus_digest,
    file_digest,
    lengths_of,
    shard_numbers,
    tar_numbers,
)
from omni_diffusion.corpus.manifest import MANIFEST, Manifest, read_manifest
from omni_diffusion.corpus.rejects import read_rejects
from omni_diffusion.corpus.shard import ShardReader, rescan
from omni_diffusion.corpus.sidecar import (
    LENGTHS,
    SCHEMA,
    ShardInfo,
    Sidecar,
    check_fingerprints,
    encode_sidecar,
    open_parquet,
    read_sidecar,
    read_table,
    sidecar_name,
    sidecar_table,
    tar_name,
)
from omni_diffusion.corpus.storage import TEMPORARY, Storage
from omni_diffusion.corpus.subset import sidecar_crcs
from omni_diffusion.corpus.verify_subset import verify_subset
from omni_diffusion.errors import CorpusError, OmniError


def verify(
    root: str | os.PathLike[str], *, workers: int | None = None, on_shard: Progress | None = None
) -> Report:
    """Check digests, CRCs, index against tars, fingerprints, overlaps, keys and counts.

    Args:
        root: folder or URL of a corpus.
        workers: processes; as many as there are cores by default.
        on_shard: called with (shards done, shards in all).

    Raises:
        StorageError: the place cannot be listed at all.
    """
    storage = Storage(root)
    if base := _base(storage):
        return verify_subset(storage, base, workers=workers, on_shard=on_shard)
    report = Report(root=storage.root)
    _note_leftovers(storage, report)
    try:
        numbers = shard_numbers(storage)
    except CorpusError as error:
        report.add(error)
        tars = tar_numbers(storage)
        numbers = [n for n in shard_numbers(storage, with_tar=False) if n in tars]
    found: dict[int, Sidecar] = {}
    for number, (sidecar, problems) in map_shards(
        partial(check_shard, storage.root), numbers, workers, on_shard
    ):
        report.problems += problems
        if sidecar:
            found[number] = sidecar
    sidecars = [found[number] for number in sorted(found)]
    report.shards, report.rows = len(numbers), sum(s.info.rows for s in sidecars)
    report.rejects = sum(s.info.rejects for s in sidecars)
    for check in (_check_fingerprints, _check_keys, _check_index, _check_manifest):
        try:
            check(storage, sidecars, report)
        except CorpusError as error:
            report.add(error)
    report.problems.sort(key=lambda problem: problem.path)
    return report


def rebuild_index(root: str | os.PathLike[str], on_shard: Progress | None = None) -> None:
    """Make missing or unreadable sidecars again from the tars, then index and manifest.

    A sidecar that can be read is kept; where it disagrees with its tar the tar is damaged, and
    nothing is rebuilt on top of it.

    Raises:
        CorpusError: a tar is damaged, or nothing says with which tokenizers it was made.
    """
    storage = Storage(root)
    if base := _base(storage):
        reason = f"is a subset of {base.base}: make it again with select"
        raise CorpusError(storage.root, reason)
    numbers = tar_numbers(storage)
    if not numbers:
        raise CorpusError(storage.root, "holds no shards (no shards/NNNNN.tar)")
    for number in numbers:
        try:
            read_sidecar(storage, number)
        except CorpusError:
            _rebuild_sidecar(storage, number, numbers)
            continue
        found = check_shard(storage.root, number)[1]
        if found:
            raise CorpusError(found[0].path, f"{found[0].reason}; make this shard again")
    try:
        recipe_digest = read_manifest(storage).recipe_digest
    except CorpusError:
        recipe_digest = ""
    compact(storage, recipe_digest=recipe_digest, on_shard=on_shard)


def _base(storage: Storage) -> Manifest | None:
    """The manifest of a subset; None for a corpus with shards of its own, or a damaged one."""
    try:
        manifest = read_manifest(storage)
    except CorpusError:
        return None
    return manifest if manifest.base else None


def check_shard(root: str, number: int) -> tuple[Sidecar | None, list[Problem]]:
    """Check one shard against its sidecar and its rejects.

    Returns:
        The sidecar without its rows (None where it cannot be read), and what is wrong.
    """
    storage = Storage(root)
    report = Report(root=storage.root)
    sidecar = None
    try:
        sidecar = read_sidecar(storage, number)
        _check_rejects(storage, sidecar.info)
        with local_tar(storage, number) as reader:
            _check_tar(storage, sidecar.info, sidecar.table, reader, report)
    except OmniError as error:
        report.add(error)
    return sidecar and replace(sidecar, table=None), report.problems


def _check_tar(
    storage: Storage, info: ShardInfo, table: pa.Table, reader: ShardReader, report: Report
) -> None:
    digest, size = hashlib.sha256(reader.data).hexdigest(), len(reader.data)
    if (digest, size) != (info.digest, info.size):
        reason = f"SHA-256 {digest[:16]}… of {size} bytes, its sidecar says {info.digest[:16]}…"
        report.problems.append(Problem(reader.name, f"{reason} of {info.size}"))
    rows = rescan(reader, info.number, report.add)
    again = sidecar_table(rows)
    if again.equals(table.replace_schema_metadata(None)):
        return
    path = storage.path(sidecar_name(info.number))
    report.problems.append(Problem(path, _difference(table, again)))


def _difference(sidecar: pa.Table, tar: pa.Table) -> str:
    """The first thing in which a sidecar and its tar disagree."""
    if sidecar.num_rows != tar.num_rows:
        return f"has {sidecar.num_rows} rows, the tar {tar.num_rows} readable samples"
    for row in range(tar.num_rows):
        for name in SCHEMA.names:
            ours, theirs = sidecar[name][row].as_py(), tar[name][row].as_py()
            if ours != theirs:
                key = sidecar["key"][row].as_py()
                return f"row {row} ({key}): {name} is {ours!r}, the tar says {theirs!r}"
    return "has other columns than the tar"


def _rebuild_sidecar(storage: Storage, number: int, numbers: Sequence[int]) -> None:
    def stop(error: OmniError) -> None:
        raise error

    with local_tar(storage, number) as reader:
        rows = rescan(reader, number, stop)
        info = ShardInfo(
            number=number,
            digest=hashlib.sha256(reader.data).hexdigest(),
            size=len(reader.data),
            rows=len(rows),
            rejects=len(read_rejects(storage, number)),
            fingerprints=_known_fingerprints(storage, numbers),
        )
    name = sidecar_name(number)
    storage.publish_bytes(encode_sidecar(sidecar_table(rows), info), name, replace=True)


def _known_fingerprints(storage: Storage, numbers: Sequence[int]) -> dict[str, str]:
    try:
        return dict(read_manifest(storage).fingerprints)
    except CorpusError:
        for number in numbers:
            try:
                return dict(read_sidecar(storage, number).info.fingerprints)
            except CorpusError:
                continue
    reason = "neither corpus.json nor any sidecar says with which tokenizers it was made"
    raise CorpusError(storage.root, reason)


def _note_leftovers(storage: Storage, report: Report) -> None:
    for entry in storage.list():
        if entry.name.rsplit("/", 1)[-1].startswith(TEMPORARY):
            reason = "left by a writer that was killed; may be deleted when no job runs"
            report.notes.append(Problem(storage.path(entry.name), reason))
    finished = set(shard_numbers(storage, with_tar=False))
    for number in sorted(set(tar_numbers(storage)) - finished):
        reason = "has no sidecar: not part of the corpus (its writer did not finish)"
        report.notes.append(Problem(storage.path(tar_name(number)), reason))


def _check_rejects(storage: Storage, info: ShardInfo) -> None:
    found = len(read_rejects(storage, info.number))
    if found != info.rejects:
        path = storage.path(f"rejects/{info.number:05d}.parquet")
        raise CorpusError(path, f"holds {found} rejects, the sidecar says {info.rejects}")


def _check_fingerprints(storage: Storage, sidecars: Sequence[Sidecar], report: Report) -> None:
    for sidecar in sidecars[1:]:
        one, other = sidecars[0].info, sidecar.info
        paths = [storage.path(sidecar_name(info.number)) for info in (one, other)]
        try:
            check_fingerprints(one.fingerprints, other.fingerprints, *paths)
        except CorpusError as error:
            report.add(error)


def _check_keys(storage: Storage, sidecars: Sequence[Sidecar], report: Report) -> None:
    keys = KeySet()
    for number in (sidecar.info.number for sidecar in sidecars):
        keys.add(read_table(storage, sidecar_name(number), ["key"])["key"].to_pylist(), number)
    if twice := keys.duplicate(storage):
        report.problems.append(Problem(storage.root, twice))


def _check_index(storage: Storage, sidecars: Sequence[Sidecar], report: Report) -> None:
    if storage.size(INDEX) is None:
        raise CorpusError(storage.path(INDEX), "there is no such file; run verify --rebuild-index")
    with local(storage, INDEX) as path, open_parquet(path, storage.path(INDEX)) as file:
        if not file.schema_arrow.equals(SCHEMA):
            raise CorpusError(storage.path(INDEX), "has other columns than the sidecars")
        crcs = sidecar_crcs(file, storage.path(INDEX))
        for sidecar in sidecars:
            number = sidecar.info.number
            if crcs.get(number) != sidecar.crc:
                where = storage.path(sidecar_name(number))
                reason = "is not the file that the index was made from"
                report.problems.append(Problem(where, f"{reason}; run verify --rebuild-index"))
        if file.metadata.num_rows != report.rows:
            reason = f"has {file.metadata.num_rows} rows, the sidecars {report.rows}"
            raise CorpusError(storage.path(INDEX), f"{reason}; run verify --rebuild-index")
        index = _Rows(file)
        for info in (sidecar.info for sidecar in sidecars):
            rows = read_table(storage, sidecar_name(info.number)).replace_schema_metadata(None)
            if not index.take(info.rows).equals(rows):
                reason = f"rows of shard {info.number} differ from its sidecar"
                raise CorpusError(storage.path(INDEX), f"{reason}; run verify --rebuild-index")


class _Rows:
    """Takes consecutive rows from a Parquet file, one row group in memory at a time."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._groups: Iterator[int] = iter(range(file.num_row_groups))
        self._file, self._rest = file, SCHEMA.empty_table()

    def take(self, rows: int) -> pa.Table:
        while self._rest.num_rows < rows:
            group = self._file.read_row_group(next(self._groups)).replace_schema_metadata(None)
            self._rest = pa.concat_tables([self._rest, group])
        head, self._rest = self._rest.slice(0, rows), self._rest.slice(rows)
        return head


def _check_manifest(storage: Storage, sidecars: Sequence[Sidecar], report: Report) -> None:
    manifest = read_manifest(storage)
    infos = [sidecar.info for sidecar in sidecars]
    lengths: Counter[str] = Counter()
    for info in infos:
        lengths.update(lengths_of(read_table(storage, sidecar_name(info.number), LENGTHS)))
    with local(storage, INDEX) as path:
        index_digest = file_digest(path)
    expected = {
        "shards": report.shards,
        "rows": report.rows,
        "rejects": report.rejects,
        "digest": corpus_digest(infos),
        "index_digest": index_digest,
        "lengths": {name: lengths[name] for name in LENGTHS},
        "fingerprints": dict(infos[0].fingerprints) if infos else {},
    }
    for name, value in expected.items():
        if (said := getattr(manifest, name)) != value:
            reason = f"says {name} {said!r}, the files say {value!r}"
            report.problems.append(Problem(storage.path(MANIFEST), reason))
