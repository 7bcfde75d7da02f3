"""What a worker does with one partition: read, turn into samples, commit one shard.

Plain functions without Ray: the engine calls them in a worker or, with `--local`, in its own
process, and the bytes are the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from omni_diffusion.corpus.media_record import MediaRecord, decode_media, is_media
from omni_diffusion.corpus.rejects import Reject, count_reasons, read_rejects, rejects_name
from omni_diffusion.corpus.sample import Sample, decode_sample
from omni_diffusion.corpus.shard import ShardReader, ShardWriter
from omni_diffusion.corpus.sidecar import read_sidecar, sidecar_name, tar_name
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import JobError, RecordError, SourceError
from omni_diffusion.pipelines.sources.partition import Partition, Source

Result = Sample | MediaRecord | Reject
"""What becomes of a record: tokens, sounds, or nothing."""


class Worker(Protocol):
    """Turns records into samples; made once in every process that works."""

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """What makes tokens or sounds: written into every sidecar, the same in every worker."""
        ...

    def samples(self, items: Iterator[MediaRecord | Reject]) -> Iterator[Result]:
        """One sample or reject for each item or reject, in the same order.

        Raises:
            OmniError: something that is not the fault of one record; the partition fails.
        """
        ...

    def commit(self) -> None:
        """Called when the shard is in place, e.g. to publish what was put into a cache."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one partition.

    Attributes:
        number: the partition's.
        rows: samples in its shard.
        rejects: records that could not be used; `rows + rejects` = records read.
        reasons: how many records fell to each `stage: reason`.
        size: bytes of the tar.
        busy_s: seconds that it took; 0 where it had been done before.
    """

    number: int
    rows: int
    rejects: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    size: int = 0
    busy_s: float = 0.0


def make_shard(storage: Storage, source: Source, worker: Worker, partition: Partition) -> Outcome:
    """Read one partition and commit its shard.

    Args:
        storage: the output.
        source: where the partition is.
        worker: what makes samples of its records.
        partition: which one.

    Raises:
        SourceError: the partition does not hold the number of records that the plan says.
        OmniError: what source, worker or store raise; nothing has been committed then.
    """
    started = time.monotonic()
    seen = _Counted(source.read(partition))
    results = worker.samples(iter(seen))
    return _commit(storage, worker, partition, results, seen, started, replace=False)


def committed(storage: Storage, number: int) -> Outcome | None:
    """The outcome of a partition whose shard is in place already, or None where it is not.

    A worker asks before it begins: one that was lost just after its commit, before anybody heard
    of it, would otherwise have its partition done again.

    Raises:
        StorageError: the store refused.
    """
    if storage.size(sidecar_name(number)) is None or storage.size(tar_name(number)) is None:
        return None
    info = read_sidecar(storage, number).info
    if info.rejects and storage.size(rejects_name(number)) is None:
        return None
    reasons = dict(count_reasons(iter(read_rejects(storage, number))))
    return Outcome(
        number=number, rows=info.rows, rejects=info.rejects, reasons=reasons, size=info.size
    )


def retry_rejects(
    storage: Storage, source: Source, worker: Worker, partition: Partition
) -> Outcome | None:
    """Try only the rejected records of a finished shard again.

    Its samples are taken over as they are, so the new shard is the one that would have been made
    if those records had been good from the beginning.

    Returns:
        The outcome, or None where every record is rejected again for the same reason: then
        nothing has been written.

    Raises:
        SourceError, OmniError: as `make_shard`.
    """
    started = time.monotonic()
    before = read_rejects(storage, partition.number)
    kept = _samples_of(storage, partition.number)
    keys: list[str] = []

    def untried() -> Iterator[MediaRecord | Reject]:
        for item in source.read(partition):
            keys.append(item.key)
            if item.key not in kept:
                yield item

    fresh = {result.key: result for result in worker.samples(untried())}
    now = [r for r in fresh.values() if isinstance(r, Reject)]
    if now == before:
        return None
    seen = _Counted(keys)
    results = (kept.get(key) or fresh[key] for key in seen)
    return _commit(storage, worker, partition, results, seen, started, replace=True)


class _Counted:
    """An iterable that knows how many it has given."""

    def __init__(self, items: Iterable[object]) -> None:
        self._items = items
        self.count = 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self.count += 1
            yield item


def _commit(
    storage: Storage,
    worker: Worker,
    partition: Partition,
    results: Iterable[Result],
    seen: _Counted,
    started: float,
    *,
    replace: bool,
) -> Outcome:
    """Write the shard; in = out + rejects is checked before it appears."""
    rejects: list[Reject] = []
    rows = 0
    number = partition.number
    with ShardWriter(storage, number, worker.fingerprints, replace=replace) as shard:
        for result in results:
            if not isinstance(result, Reject):
                try:
                    shard.add(result)
                    rows += 1
                    continue
                except RecordError as error:
                    result = Reject(
                        key=result.key, stage="write", reason=error.reason, detail=str(error)
                    )
            shard.reject(result)
            rejects.append(result)
        if seen.count != rows + len(rejects):
            found = f"{seen.count} records in, {rows} samples and {len(rejects)} rejects out"
            raise JobError(f"partition {partition.name}: {found}")
        if partition.rows is not None and partition.rows != seen.count:
            raise SourceError(
                f"partition {partition.name}: {seen.count} records, but {partition.rows} when the "
                "job was planned; the source has changed: write to a new output folder"
            )
    worker.commit()
    return Outcome(
        number=number,
        rows=rows,
        rejects=len(rejects),
        reasons=dict(count_reasons(iter(rejects))),
        size=shard.size,
        busy_s=time.monotonic() - started,
    )


def _samples_of(storage: Storage, number: int) -> dict[str, Sample | MediaRecord]:
    """All samples of a shard by key; they stay whole when its file is replaced."""
    sidecar = read_sidecar(storage, number)
    decode = decode_media if is_media(sidecar.info.fingerprints) else decode_sample
    table = sidecar.table
    name = tar_name(number)
    if storage.is_local:
        reader = ShardReader(storage.path(name))
    else:
        with storage.temporary(name) as path:
            storage.download(name, path)
            reader = ShardReader(path, storage.path(name))
    rows = zip(*(table[n].to_pylist() for n in ("key", "offset", "size", "crc")), strict=True)
    return {
        key: decode(key, reader.payload(offset, size), reader.name, crc)
        for key, offset, size, crc in rows
    }
