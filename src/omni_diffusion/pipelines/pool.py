"""Who does the work: workers on Ray, or this very process.

A pool takes partitions and tells what became of them, as events. It knows nothing of attempts,
budgets or progress: that is the engine's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import OmniError
from omni_diffusion.pipelines.shard_work import (
    Outcome,
    Worker,
    committed,
    make_shard,
    retry_rejects,
)
from omni_diffusion.pipelines.sources.partition import Partition, Source


class Job(Protocol):
    """What the engine runs. It travels to other processes, so it is small and plain."""

    @property
    def name(self) -> str:
        """The verb, e.g. `tokenize`."""
        ...

    @property
    def output(self) -> str:
        """Folder or URL of the corpus that is made."""
        ...

    def source(self) -> Source:
        """Where the records are."""
        ...

    def worker(self) -> Worker:
        """What makes samples of them: loads models, so it is called once a process."""
        ...


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has loaded its models."""

    fingerprints: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Done:
    """A shard is committed, or (None) there was nothing to change."""

    number: int
    outcome: Outcome | None


@dataclass(frozen=True, slots=True)
class Failed:
    """A partition ended in an error that may go away: `kind` is the error's type."""

    number: int
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The process that was at work on a partition died or did not answer in time.

    `behind` are those that waited behind it; it may have come to them, its answers being lost.
    """

    number: int
    message: str
    behind: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Returned:
    """A partition that nobody had begun is given back."""

    number: int


@dataclass(frozen=True, slots=True)
class NoWorker:
    """A worker could not be made: `kind` is the error's type, empty where the process died."""

    kind: str
    message: str


Event = Ready | Done | Failed | Lost | Returned | NoWorker


@dataclass(frozen=True, slots=True)
class AtWork:
    """A partition that is being worked on, for `status`."""

    number: int
    seconds: float
    where: str


class Pool(Protocol):
    """Takes partitions, gives events."""

    @property
    def wanted(self) -> int:
        """Workers that there shall be."""
        ...

    @property
    def workers(self) -> int:
        """Workers that have loaded their models."""
        ...

    def room(self, waiting: int) -> bool:
        """Whether a partition can be taken now, with `waiting` more behind it."""
        ...

    def submit(self, partition: Partition) -> None:
        """Take one partition; `room` has just said yes."""
        ...

    def wait(self, timeout_s: float, deadline_s: float) -> list[Event]:
        """What has happened, after at most `timeout_s`; older work than the deadline is ended."""
        ...

    def at_work(self) -> list[AtWork]:
        """What is being worked on."""
        ...

    def drain(self) -> list[Event]:
        """Begin nothing more: give back what nobody has begun."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


@dataclass(slots=True)
class Hands:
    """What one process works with: made once, used for every partition."""

    storage: Storage
    source: Source
    worker: Worker
    retrying: bool

    @classmethod
    def of(cls, job: Job, retrying: bool) -> Hands:
        """Load what the job needs.

        Raises:
            OmniError: weights, source or output are not usable here.
        """
        return cls(Storage(job.output), job.source(), job.worker(), retrying)

    def work(self, partition: Partition) -> Done | Failed:
        """Do one partition; errors that a user can cause come back as an event."""
        number = partition.number
        try:
            done = committed(self.storage, number)
            if done and not self.retrying:
                return Done(number, done)
            do = retry_rejects if done else make_shard
            return Done(number, do(self.storage, self.source, self.worker, partition))
        except OmniError as error:
            return Failed(number, type(error).__name__, str(error))


@dataclass(slots=True)
class LocalPool:
    """One worker: this process. For debugging, and as the yardstick of all others."""

    job: Job
    retrying: bool = False
    _hands: Hands | None = None
    _waiting: deque[Partition] = field(default_factory=deque)
    wanted: int = 1

    @property
    def workers(self) -> int:
        """See `Pool`."""
        return int(self._hands is not None)

    def room(self, waiting: int) -> bool:  # noqa: ARG002
        """See `Pool`."""
        return self._hands is not None and not self._waiting

    def submit(self, partition: Partition) -> None:
        """See `Pool`."""
        self._waiting.append(partition)

    def wait(self, timeout_s: float, deadline_s: float) -> list[Event]:  # noqa: ARG002
        """Work on what was submitted; a deadline cannot be kept by the process that works."""
        if self._hands is None:
            try:
                self._hands = Hands.of(self.job, self.retrying)
            except OmniError as error:
                return [NoWorker(type(error).__name__, str(error))]
            return [Ready(self._hands.worker.fingerprints)]
        return [self._hands.work(self._waiting.popleft())] if self._waiting else []

    def at_work(self) -> list[AtWork]:
        """See `Pool`: between two calls of `wait` nothing is."""
        return []

    def drain(self) -> list[Event]:
        """See `Pool`."""
        events: list[Event] = [Returned(partition.number) for partition in self._waiting]
        self._waiting.clear()
        return events

    def close(self) -> None:
        """See `Pool`."""
        self._hands = None
