"""Small jobs on the real engine: their records are numbers, their faults are asked for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from corpora import FINGERPRINTS, make_sample
from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.record import Record
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.corpus.sample import Sample
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import StorageError, WeightsError
from omni_diffusion.pipelines.sources.partition import Partition


@dataclass(frozen=True)
class NumberJob:
    """Partition `p` holds records `p-0`, `p-1`, ...; every 7th record of all is a reject.

    Attributes:
        output: of the job.
        partitions: how many.
        rows: records in each.
        log: folder in which `begun` and `committed` moments are noted, or "".
        seconds: how long a record takes.
        hang: partitions that never end while the file `log/hang` is there.
        refuse: partitions whose source refuses while the file `log/refuse` is there.
        die: partitions whose worker dies while the file `log/die` is there.
        die_late: whether a worker dies right after a commit, once for the file `log/late`.
        gated: whether partitions wait, after they were begun, until `open_gate` opens them.
        mended: whether the 7th records are good now.
        no_weights: whether the worker cannot be made.
        fingerprint: of the tokenizers.
    """

    output: str
    partitions: int = 8
    rows: int = 10
    log: str = ""
    seconds: float = 0.0
    hang: tuple[int, ...] = ()
    refuse: tuple[int, ...] = ()
    die: tuple[int, ...] = ()
    die_late: bool = False
    gated: bool = False
    mended: bool = False
    no_weights: bool = False
    fingerprint: str = ""

    name: str = field(default="numbers")

    def source(self) -> NumberSource:
        return NumberSource(self)

    def worker(self) -> NumberWorker:
        if self.no_weights:
            raise WeightsError("weights/none: not there; download them first")
        return NumberWorker(self)


@dataclass(frozen=True)
class NumberSource:
    job: NumberJob

    def partitions(self) -> Iterator[Partition]:
        for number in range(self.job.partitions):
            spec = {"first": number * self.job.rows}
            yield Partition(number=number, name=f"part {number}", spec=spec, rows=self.job.rows)

    def read(self, partition: Partition) -> Iterator[MediaRecord | Reject]:
        number = partition.number
        self._trouble(number)
        self._note("begun", number)
        while self.job.gated and number >= int(_gate(self.job.log).read_text()):
            time.sleep(0.02)
        for row in range(self.job.rows):
            key = f"{number:05d}-{row:04d}"
            if (partition.spec["first"] + row) % 7 == 3 and not self.job.mended:
                yield Reject(key=key, stage="read", reason="a seventh", detail=key)
                continue
            message = {"role": "user", "content": str(row)}
            yield MediaRecord(key=key, record=Record.from_dict({"messages": [message]}, key))

    def _trouble(self, number: int) -> None:
        job = self.job
        if number in job.refuse and _there(job.log, "refuse"):
            raise StorageError(f"s3://away/{number}", "503 SlowDown")
        if number in job.die and _there(job.log, "die"):
            os._exit(9)
        while number in job.hang and _there(job.log, "hang"):
            time.sleep(0.05)

    def _note(self, what: str, number: int) -> None:
        if self.job.log:
            path = Path(self.job.log) / f"{what}-{number:05d}-{os.getpid()}-{time.time_ns()}"
            path.touch()


class NumberWorker:
    def __init__(self, job: NumberJob) -> None:
        self._job = job

    @property
    def fingerprints(self) -> Mapping[str, str]:
        return FINGERPRINTS | ({"image": self._job.fingerprint} if self._job.fingerprint else {})

    def samples(self, items: Iterator[MediaRecord | Reject]) -> Iterator[Sample | Reject]:
        for item in items:
            if isinstance(item, Reject):
                yield item
                continue
            if self._job.seconds:
                end = time.thread_time() + self._job.seconds
                while time.thread_time() < end:
                    pass
            yield make_sample(item.key, int(item.key.replace("-", "")) % 10_007)

    def commit(self) -> None:
        if self._job.die_late and _there(self._job.log, "late"):
            (Path(self._job.log) / "late").unlink()
            os._exit(9)


def open_gate(log: Path, partitions: int) -> None:
    """Let the first so many partitions of a gated job go on."""
    new = log / "gate-new"
    new.write_text(str(partitions))
    new.replace(_gate(log))


def _gate(log: Path | str) -> Path:
    return Path(log) / "gate"


def _there(folder: str, name: str) -> bool:
    return bool(folder) and (Path(folder) / name).exists()


def contents(root: Path | str) -> dict[str, bytes]:
    """Every file of a corpus but the run files, which tell the time."""
    storage = Storage(root)
    names = (entry.name for entry in storage.list())
    return {name: storage.read(name) for name in names if not name.startswith("runs/")}
