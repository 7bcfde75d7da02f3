"""`runs/ID.json`: what a run did, while it runs and for good.

The driver writes the file again every few seconds. `status` and the audit read it; nothing in a
corpus depends on it.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError, StorageError
from omni_diffusion.pipelines.pool import AtWork
from omni_diffusion.pipelines.shard_work import Outcome

FOLDER = "runs"
WRITE_EVERY_S = 3.0
SLOW = 3.0
"""A partition that takes so many times the median is called a straggler."""

_MEDIAN_OF = 5
"""Partitions that must have been done before any other is called slow."""

ENDED = frozenset({"finished", "stopped", "failed"})
"""States after which a run does nothing more."""

SILENT_S = 60.0
"""A run on another machine whose file is older than this is taken for dead."""

_RECENT = 200


@dataclass(slots=True)
class Run:
    """The state of one run. Times are UTC in ISO 8601; `rows` and `rejects` are of this run alone.

    Attributes:
        run: its id, which sorts by time.
        job: the verb.
        recipe_digest: of what makes the bytes.
        state: `starting`, `running`, `draining`, `indexing`, `finished`, `stopped` or `failed`.
        partitions: `total`, `done` (also by earlier runs), `given_up`.
        reasons: rejected records by `stage: reason`.
        pid_since: when that process began, in the system's own words.
        given_up: number, name and last error of each partition that failed too often.
        failures: attempts that did not succeed, by the type of their error.
        stragglers: partitions at work for more than `SLOW` times the median.
        workers: `wanted` and `ready`.
        busy_s: seconds of workers that went into partitions, those at work included.
        worker_s: seconds that workers were ready.
        busy_share: the one divided by the other.
        records_per_s: of this run, since the first worker was ready.
        eta_s: seconds to the end at that rate, or None.
        scan_s: to find out what is done already.
        ramp_s: from the start until all wanted workers were at work, or None.
        unwritten: how often this file could not be written in time.
        message: why it ended, in words.
    """

    run: str
    job: str
    recipe_digest: str
    retrying_rejects: bool = False
    state: str = "starting"
    started: str = ""
    updated: str = ""
    host: str = ""
    pid: int = 0
    pid_since: str = ""
    partitions: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    rejects: int = 0
    size: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    given_up: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    stragglers: list[dict[str, Any]] = field(default_factory=list)
    workers: dict[str, int] = field(default_factory=dict)
    busy_s: float = 0.0
    worker_s: float = 0.0
    busy_share: float = 0.0
    records_per_s: float = 0.0
    eta_s: float | None = None
    scan_s: float = 0.0
    ramp_s: float | None = None
    wall_s: float = 0.0
    unwritten: int = 0
    message: str = ""


class RunFile:
    """Counts what happens in a run and keeps its file up to date.

    Args:
        storage: the output.
        run: its first state.
        write_every_s: how often the file is written at most.
    """

    def __init__(self, storage: Storage, run: Run, write_every_s: float = WRITE_EVERY_S) -> None:
        self.run = run
        self._storage, self._every = storage, write_every_s
        self._born = time.monotonic()
        self._written = -1e9
        self._working_since: float | None = None
        self._committed_s = 0.0
        self._ticked = self._born
        self._recent: list[float] = []
        run.started, run.host, run.pid = _now(), socket.gethostname(), os.getpid()
        run.pid_since = _process_since(run.pid) or ""

    def median_s(self) -> float | None:
        """Seconds that a partition took lately, or None before the first."""
        return statistics.median(self._recent) if self._recent else None

    def add(self, outcome: Outcome) -> None:
        """Count one committed shard."""
        run = self.run
        run.rows += outcome.rows
        run.rejects += outcome.rejects
        run.size += outcome.size
        run.reasons = dict(Counter(run.reasons) + Counter(outcome.reasons))
        self._committed_s += outcome.busy_s
        if outcome.busy_s:
            self._recent = [*self._recent[-_RECENT:], outcome.busy_s]

    def tick(self, wanted: int, ready: int, at_work: Sequence[AtWork]) -> None:
        """Bring rates, workers and stragglers up to date; write the file if it is time."""
        run, now = self.run, time.monotonic()
        run.workers = {"wanted": wanted, "ready": ready}
        run.worker_s = round(run.worker_s + ready * (now - self._ticked), 3)
        self._ticked = now
        if ready and self._working_since is None:
            self._working_since = now
        if run.ramp_s is None and wanted and len(at_work) >= wanted:
            run.ramp_s = round(now - self._born, 3)
        working = now - (self._working_since or now)
        run.busy_s = round(self._committed_s + sum(work.seconds for work in at_work), 3)
        if run.worker_s:
            run.busy_share = round(min(1.0, run.busy_s / run.worker_s), 4)
        records = run.rows + run.rejects
        if records and working:
            run.records_per_s = round(records / working, 3)
        run.eta_s = self._eta(working)
        median = self.median_s() if len(self._recent) >= _MEDIAN_OF else None
        run.stragglers = [
            {"partition": work.number, "seconds": round(work.seconds, 1), "worker": work.where}
            for work in at_work
            if median and work.seconds > SLOW * median
        ]
        self.beat()

    def beat(self) -> None:
        """A sign of life: write the file if it is time."""
        now = time.monotonic()
        self.run.wall_s = round(now - self._born, 3)
        if now - self._written >= self._every:
            try:
                self.write()
            except StorageError:
                self.run.unwritten += 1  # the next one will do; the shards are what matters

    def _eta(self, working_s: float) -> float | None:
        done = self.run.partitions.get("done_now", 0)
        left = self.run.partitions["total"] - self.run.partitions["done"]
        return round(working_s / done * left, 1) if done else None

    def end(self, state: str, message: str) -> None:
        """The last word of a run that was broken off."""
        self.run.state, self.run.message = state, message
        try:
            self.write()
        except StorageError:
            # The error on its way says more than that the file of it could not be written.
            self.run.message += " (and the run file could not be written)"

    def write(self) -> None:
        """Write the file.

        Raises:
            StorageError: the store refused.
        """
        self._written = time.monotonic()
        self.run.updated = _now()
        text = json.dumps(asdict(self.run), indent=2) + "\n"
        self._storage.publish_bytes(text.encode(), f"{FOLDER}/{self.run.run}.json", replace=True)


def new_run_id() -> str:
    """An id that sorts by time and that no other run has."""
    moment = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"[:-3]
    return f"{moment}-{os.urandom(3).hex()}"


def last_run(storage: Storage) -> Run | None:
    """The newest run of an output, or None.

    Raises:
        CorpusError: its file is damaged.
    """
    names = [e.name for e in storage.list(FOLDER) if e.name.endswith(".json")]
    return _read(storage, names[-1]) if names else None


def seconds_since(moment: str) -> float:
    """Seconds from a time of a run file until now."""
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def is_at_work(run: Run) -> bool:
    """Whether a run has not ended: by its process on this machine, by its file's age elsewhere."""
    if run.state in ENDED:
        return False
    if run.host != socket.gethostname():
        return seconds_since(run.updated) <= SILENT_S
    if run.pid_since:
        return run.pid_since == _process_since(run.pid)
    return _process_since(run.pid) is not None


def _read(storage: Storage, name: str) -> Run:
    """A run as its file tells it; figures of another version are passed over.

    The file only reports: what an older version counted must not keep a newer one from going on.
    """
    known = {one.name for one in fields(Run)}
    try:
        told = json.loads(storage.read(name))
        return Run(**{key: value for key, value in told.items() if key in known})
    except (ValueError, TypeError, AttributeError) as error:
        raise CorpusError(storage.path(name), f"damaged: {error}") from None


def _process_since(pid: int) -> str | None:
    """When a process of this machine began, so that a number used again is not mistaken for it.

    Returns:
        A text that differs for two processes of one number (where the system tells: ""), or None
        where there is no such process.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # somebody else's
    try:
        # Field 22, counted behind the name, which may hold anything.
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return f"{after_name[19]} after boot {boot}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
