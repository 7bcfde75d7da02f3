"""The checks of a subset: its rows against the tars that hold their samples."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from omni_diffusion.corpus import tar
from omni_diffusion.corpus.checking import (
    Problem,
    Progress,
    Report,
    local,
    local_tar,
    map_shards,
)
from omni_diffusion.corpus.index import INDEX, file_digest, lengths_of
from omni_diffusion.corpus.manifest import MANIFEST, Manifest
from omni_diffusion.corpus.sample import EXTENSION, decode_sample, span_fault
from omni_diffusion.corpus.shard import ShardReader
from omni_diffusion.corpus.sidecar import (
    LENGTHS,
    SCHEMA,
    open_parquet,
    read_sidecar,
    row_of,
    sidecar_name,
    sidecar_table,
)
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.corpus.subset import places_of, shards_of, sidecar_crcs
from omni_diffusion.errors import CorpusError, OmniError


def verify_subset(
    storage: Storage,
    manifest: Manifest,
    *,
    workers: int | None = None,
    on_shard: Progress | None = None,
) -> Report:
    """Check every sample of a subset where it lies, and its index and manifest.

    The rest of the shards is the business of their own corpus. See `verify` for the arguments.
    """
    report = Report(root=storage.root)
    shards = shards_of(storage, manifest)
    try:
        with local(storage, INDEX) as path, open_parquet(path, storage.path(INDEX)) as index:
            if not index.schema_arrow.equals(SCHEMA):
                raise CorpusError(storage.path(INDEX), "has other columns than sidecars")
            crcs = sidecar_crcs(index, storage.path(INDEX))
            found = _Walk(index)
            digest = file_digest(path)
    except CorpusError as error:
        report.add(error)
        return report
    report.shards, report.rows = len(found.shards), found.rows
    if found.fault:
        report.problems.append(Problem(storage.path(INDEX), found.fault))
    if sorted(crcs) != found.shards:
        reason = "names other sidecars than those of its rows; make it again with select"
        report.problems.append(Problem(storage.path(INDEX), reason))
    check = partial(_check_rows, shards.root, storage.root, crcs)
    for _, problems in map_shards(check, found.shards, workers, on_shard):
        report.problems += problems
    expected = {
        "shards": report.shards,
        "rows": report.rows,
        "rejects": 0,
        "digest": found.digest,
        "index_digest": digest,
        "lengths": {name: found.lengths[name] for name in LENGTHS},
    }
    for name, value in expected.items():
        if (said := getattr(manifest, name)) != value:
            reason = f"says {name} {said!r}, the files say {value!r}"
            report.problems.append(Problem(storage.path(MANIFEST), reason))
    report.problems.sort(key=lambda problem: problem.path)
    return report


class _Walk:
    """One pass over an index: what the manifest must say of it."""

    def __init__(self, index: pq.ParquetFile) -> None:
        self.rows, self.lengths, self.fault = 0, Counter[str](), ""
        shards: set[int] = set()
        sha = hashlib.sha256()
        last = (-1, -1)
        for group in range(index.num_row_groups):
            table = index.read_row_group(group).replace_schema_metadata(None)
            self.rows += table.num_rows
            self.lengths.update(lengths_of(table))
            sha.update(places_of(table))
            shards |= set(pc.unique(table["shard"]).to_pylist())
            first, end = _order_fault(table)
            if first <= last or end is None:
                self.fault = "rows are not in the order of shard and offset"
            last = end or last
        self.shards, self.digest = sorted(shards), sha.hexdigest()


def _order_fault(table: pa.Table) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """The first and the last place of a table; None for the last where rows are out of order."""
    shard, offset = (table[name].to_numpy().astype(np.int64) for name in ("shard", "offset"))
    ascending = (np.diff(shard) > 0) | ((np.diff(shard) == 0) & (np.diff(offset) > 0))
    first = int(shard[0]), int(offset[0])
    return first, (int(shard[-1]), int(offset[-1])) if ascending.all() else None


def _check_rows(shards_root: str, root: str, crcs: dict[int, int], number: int) -> list[Problem]:
    """Samples of one shard: their bytes, tar headers and rows; and the sidecar of the shard."""
    shards, storage = Storage(shards_root), Storage(root)
    report = Report(root=root)
    try:
        with local(storage, INDEX) as path:
            rows = pq.read_table(path, filters=[("shard", "=", number)])
        if read_sidecar(shards, number).crc != crcs.get(number):
            reason = "is not the file that the subset was made from; make it again with select"
            report.problems.append(Problem(shards.path(sidecar_name(number)), reason))
        with local_tar(shards, number) as reader:
            again = _rows_again(reader, number, rows, report)
        rows = rows.replace_schema_metadata(None)
        if not report.problems and not again.equals(rows):
            reason = f"rows of shard {number} differ from its samples; make it again with select"
            report.problems.append(Problem(storage.path(INDEX), reason))
    except OmniError as error:
        report.add(error)
    return report.problems


def _rows_again(reader: ShardReader, number: int, rows: pa.Table, report: Report) -> pa.Table:
    """The same rows, made from the bytes of the tar."""
    found = []
    columns = (rows[name].to_pylist() for name in ("key", "offset", "size", "crc"))
    for key, offset, size, crc in zip(*columns, strict=True):
        try:
            header = bytes(reader.data[max(offset - tar.BLOCK, 0) : offset])
            if header != tar.member_header(f"{key}.{EXTENSION}", size):
                raise CorpusError(reader.name, f"no sample {key!r} of {size} bytes at {offset}")
            data = reader.payload(offset, size)
            sample = decode_sample(key, data, reader.name, crc)
            if fault := span_fault(sample):
                raise CorpusError(reader.name, f"sample {key!r}: {fault}")
            found.append(row_of(sample, number, offset, data))
        except OmniError as error:
            report.add(error)
    return sidecar_table(found)
