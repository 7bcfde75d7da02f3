"""What a job would do: its plan, and how long a few of its records take here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.pipelines.ledger import read_ledger
from omni_diffusion.pipelines.plan import make_plan, read_plan
from omni_diffusion.pipelines.pool import Job
from omni_diffusion.pipelines.shard_work import Worker

_PROBE_RECORDS = 16
_PROBE_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a job would do, from its plan and a few records of its first partition.

    Attributes:
        partitions: shards to be.
        done: those that exist already.
        records: in the source, or None where it does not know.
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
    size = probed = rejects = 0
    started = time.monotonic()
    for result in worker.samples(iter(source.read(plan.partition(0)))):
        probed += 1
        if isinstance(result, Reject):
            rejects += 1
        else:
            size += encoded_bytes(result)
        if probed >= _PROBE_RECORDS or time.monotonic() - started > _PROBE_S:
            break
    each = (time.monotonic() - started) / probed if probed else None
    kept = size / (probed - rejects) if probed > rejects else None
    records = plan.total("rows")
    left = records * (len(plan) - done) / len(plan) if records is not None else None
    return Estimate(
        partitions=len(plan),
        done=done,
        records=records,
        source_bytes=plan.total("size"),
        probed=probed,
        probe_rejects=rejects,
        seconds_per_record=each,
        bytes_per_record=kept,
        worker_hours=left * each / 3600 if left is not None and each else None,
        output_bytes=int(records * kept) if records is not None and kept else None,
        first=tuple(plan.partition(n).name for n in range(min(5, len(plan)))),
    )
