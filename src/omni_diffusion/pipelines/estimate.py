"""What a job would do: its plan, and how long a few of its records take here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.pipelines.ledger import read_ledger
from omni_diffusion.pipelines.plan import make_plan, read_plan
from omni_diffusion.pipelines.pool import Job
from omni_diffusion.pipelines.shard_work import Worker
from omni_diffusion.pipelines.sources.partition import Partition

_PLACES = 4
_PROBE_RECORDS = 8
"""Of a partition; in so many partitions, since one may hold sounds and the next pictures."""

_PROBE_S = 10.0
_MEMBER = 768
"""Bytes that a tar adds to a member on average: its header and what fills its last block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a job would do, from its plan and a few records here and there.

    Attributes:
        partitions: shards to be.
        done: those that exist already.
        records: in the source, or None where it does not know.
        records_about: the same, or a guess by the size of the source and of the records tried.
        source_bytes: to be read, or None.
        probed: records that were tried to measure.
        probe_rejects: those of them that were rejected.
        seconds_per_record: on this machine, with one worker, or None where nothing was probed.
        bytes_per_record: in the corpus.
        worker_hours: for what is left, or None.
        output_bytes: of the whole corpus, or None.
        first: names of the first partitions.
    """

    partitions: int
    done: int
    records: int | None
    records_about: int | None
    source_bytes: int | None
    probed: int
    probe_rejects: int
    seconds_per_record: float | None
    bytes_per_record: float | None
    worker_hours: float | None
    output_bytes: int | None
    first: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def estimate_job(job: Job, worker: Worker, encoded_bytes: Callable[[Any], int]) -> Estimate:
    """Plan a job and try a few records, without writing anything.

    Args:
        job: what would be done.
        worker: what tries; it must keep nothing.
        encoded_bytes: how many bytes a result takes in its shard.

    Raises:
        SourceError: the source is not there or of another form.
    """
    storage, source = Storage(job.output), job.source()
    plan = read_plan(storage) or make_plan(source)
    done = len(read_ledger(storage, len(plan)).done)
    probes, began = [], time.monotonic()
    for number in sorted({len(plan) * i // _PLACES for i in range(_PLACES)}):
        partition = plan.partition(number)
        probes.append(probe := _Probe(partition, encoded_bytes))
        for result in worker.samples(probe.counted(source.read(partition))):
            probe.add(result)
        if time.monotonic() - began > _PROBE_S:
            break
    # Each place speaks for as many records as its partition seems to hold.
    weights = [probe.records or 1.0 for probe in probes]
    each = _mean([probe.seconds_per_record for probe in probes], weights)
    kept = _mean([probe.bytes_per_record for probe in probes], weights)
    records, source_bytes = plan.total("rows"), plan.total("size")
    about: float | None = records
    if records is None and source_bytes is not None and all(probe.records for probe in probes):
        probed_bytes = sum(probe.partition.size or 0 for probe in probes)
        about = source_bytes / probed_bytes * sum(weights)
    left = about * (len(plan) - done) / len(plan) if about is not None else None
    return Estimate(
        partitions=len(plan),
        done=done,
        records=records,
        records_about=None if about is None else round(about),
        source_bytes=source_bytes,
        probed=sum(probe.count for probe in probes),
        probe_rejects=sum(probe.count - probe.kept for probe in probes),
        seconds_per_record=each,
        bytes_per_record=kept,
        worker_hours=left * each / 3600 if left is not None and each else None,
        output_bytes=int(about * kept) if about is not None and kept is not None else None,
        first=tuple(plan.partition(n).name for n in range(min(5, len(plan)))),
    )


class _Probe:
    """What the first records of one partition took."""

    def __init__(self, partition: Partition, encoded_bytes: Callable[[Any], int]) -> None:
        self.partition, self._encoded_bytes = partition, encoded_bytes
        self.count = self.kept = self.size = self.read_bytes = 0
        self.began = time.monotonic()
        self.seconds = 0.0

    def counted(self, items: Iterable[MediaRecord | Reject]) -> Iterator[MediaRecord | Reject]:
        """The first items; the bytes of their media and texts are counted."""
        for item in islice(items, _PROBE_RECORDS):
            if isinstance(item, MediaRecord):
                texts = sum(len(message.content) for message in item.record.messages)
                media = sum(len(data) + _MEMBER for data in (*item.images, *item.audios))
                self.read_bytes += texts + _MEMBER + media
            yield item

    def add(self, result: object) -> None:
        """Count one result."""
        self.count += 1
        self.seconds = time.monotonic() - self.began
        if not isinstance(result, Reject):
            self.kept += 1
            self.size += self._encoded_bytes(result) + _MEMBER

    @property
    def seconds_per_record(self) -> float | None:
        """Reading included."""
        return self.seconds / self.count if self.count else None

    @property
    def bytes_per_record(self) -> float | None:
        """In the corpus."""
        return self.size / self.kept if self.kept else None

    @property
    def records(self) -> float | None:
        """Records of the whole partition, by the plan or by its size."""
        if self.partition.rows is not None or self.partition.size is None:
            return self.partition.rows
        return self.partition.size / self.read_bytes * self.count if self.read_bytes else None


def _mean(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """The weighted mean of what is known."""
    known = [(v, w) for v, w in zip(values, weights, strict=True) if v is not None and w]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None
