"""The engine: partitions of a source become shards of a corpus, exactly once, whatever dies.

    preflight -> plan -> pool of workers -> one commit a partition -> index and manifest

A partition is done exactly when its shard is in the output (`ledger`), so there is no other state
to lose: run the same command again and it does what is missing. Work is begun at least once and
committed as a pure function of source and recipe, so that a second commit would change nothing.

What goes wrong is told apart by who is at fault. A bad record is a reject in its shard. A store
that refuses, a worker that dies or hangs costs its partition one try, and the next one comes after
a pause. What no try can mend (a full disk, missing weights, tokenizers other than before) stops
the job at once.
"""

from __future__ import annotations

import heapq
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from omni_diffusion.corpus.index import INDEX, compact
from omni_diffusion.corpus.manifest import MANIFEST, Manifest, read_manifest
from omni_diffusion.corpus.sidecar import check_fingerprints, read_sidecar, sidecar_name
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError, JobError, OmniError, SourceError
from omni_diffusion.pipelines import ledger
from omni_diffusion.pipelines.plan import Plan, make_plan, read_plan, save_plan
from omni_diffusion.pipelines.pool import (
    Done,
    Event,
    Failed,
    Job,
    LocalPool,
    Lost,
    NoWorker,
    Pool,
    Ready,
)
from omni_diffusion.pipelines.run_file import (
    SILENT_S,
    Run,
    RunFile,
    is_at_work,
    last_run,
    new_run_id,
)
from omni_diffusion.pipelines.run_recipe import RunRecipe
from omni_diffusion.pipelines.shard_work import Outcome, committed

FATAL = frozenset({"DiskFullError", "WeightsError", "RecipeError", "FingerprintError"})
"""Errors that another try cannot mend."""

_POLL_S = 0.5
_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_LEAST_DEADLINE_S = 600.0
_DEADLINE_MEDIANS = 20.0

_STARTS = 5
"""How many workers, for each that is wanted, may die in a row while they load before the job stops.

In a row means that none became ready in between. A crowd of spot nodes may go at one moment; what
never comes up is a fault that another try does not mend.
"""

OnTick = Callable[[Run], None]


def run_job(
    job: Job,
    recipe: RunRecipe,
    recipe_digest: str,
    *,
    local: bool = False,
    retrying_rejects: bool = False,
    on_tick: OnTick | None = None,
    on_plan: Callable[[int], None] | None = None,
    on_index: Callable[[int, int], None] | None = None,
) -> tuple[Manifest, Run]:
    """Do what is missing of a job, then write index and manifest.

    Args:
        job: what to do.
        recipe: how to run it.
        recipe_digest: of what makes the bytes; written into manifest and run file.
        local: in this process, without Ray.
        retrying_rejects: try the rejected records of finished shards again, too; samples stay.
        on_tick: called with the state of the run a few times a second.
        on_plan: called with the number of partitions found so far.
        on_index: called with (shards done, shards in all) while the index is made.

    Returns:
        The manifest of the whole corpus, and what this run did.

    Raises:
        JobError: the job could not be finished; the message says why, and what was done stays.
        KeyboardInterrupt: it was asked to stop, and has.
    """
    storage, began = Storage(job.output), time.monotonic()
    refuse_second_driver(storage)
    plan = read_plan(storage)
    if plan is None:
        plan = make_plan(job.source(), on_plan)
        save_plan(storage, plan)
    state = ledger.read_ledger(storage, len(plan))
    ledger.clear(storage, state.debris)
    missing = set(range(len(plan))) - state.done
    todo = sorted(missing | state.with_rejects if retrying_rejects else missing)
    run = Run(new_run_id(), job.name, recipe_digest, retrying_rejects)
    run.partitions = {
        "total": len(plan), "done": len(plan) - len(todo), "done_now": 0, "given_up": 0,
    }  # fmt: skip
    run.scan_s = round(time.monotonic() - began, 3)
    file = RunFile(storage, run)
    if not todo and (finished := _finished(storage, recipe_digest)):
        run.state = "finished"
        return finished, run
    file.write()
    try:
        if todo:
            ledger.open_for_change(storage)
            driver = _Driver(job, recipe, plan, file, storage, on_tick)
            with driver.pool(local, retrying_rejects) as pool:
                driver.drive(pool, deque(todo), first_done=min(state.done, default=None))
            ledger.clear(storage, ledger.read_ledger(storage, len(plan)).debris)
        manifest = _finish(storage, file, recipe_digest, on_index)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        file.end("stopped" if stopped else "failed", str(error) or "asked to stop")
        raise
    return manifest, run


def refuse_second_driver(storage: Storage) -> None:
    """Make sure that no other run is at work on an output.

    Raises:
        JobError: names the other run.
    """
    run = last_run(storage)
    if run is not None and is_at_work(run):
        raise JobError(
            f"{storage.root}: run {run.run} is at work there (process {run.pid} on {run.host}, "
            f"last heard of at {run.updated}); stop it, or wait {SILENT_S:.0f} s if its machine "
            "has died"
        )


class _Driver:
    """Attempts, pauses, budgets: everything about one run that lies between plan and pool."""

    def __init__(
        self,
        job: Job,
        recipe: RunRecipe,
        plan: Plan,
        file: RunFile,
        storage: Storage,
        on_tick: OnTick | None,
    ) -> None:
        self.job, self.recipe, self.plan, self.file = job, recipe, plan, file
        self.storage = storage
        self.watchers = [on_tick] if on_tick else []
        self.run = file.run
        self.todo: deque[int] = deque()
        self.later: list[tuple[float, int]] = []
        self.flying: set[int] = set()
        self.tries: Counter[int] = Counter()
        self.starts_failed = 0
        self.stop: str | None = None
        self.signals = 0

    @contextmanager
    def pool(self, local: bool, retrying: bool) -> Iterator[Pool]:
        """The workers; they are ended whatever happens."""
        pool: Pool
        if local:
            pool = LocalPool(self.job, retrying)
        else:
            from omni_diffusion.pipelines.ray_metrics import RunMetrics
            from omni_diffusion.pipelines.ray_pool import RayPool

            pool = RayPool(self.job, self.recipe.ray, retrying=retrying)
            self.watchers.append(RunMetrics(self.run).show)
        try:
            yield pool
        finally:
            pool.close()

    def drive(self, pool: Pool, todo: deque[int], first_done: int | None) -> None:
        """Bring all partitions through the pool.

        Raises:
            JobError: the job cannot be finished.
            KeyboardInterrupt: it was asked to stop; what was at work has been committed.
        """
        self.todo, self.first_done = todo, first_done
        self.run.state = "running"
        with self._signals():
            drained_at: float | None = None
            while self.todo or self.later or self.flying:
                if self.signals and drained_at is None:
                    drained_at, self.run.state = time.monotonic(), "draining"
                    self._take(pool, pool.drain())
                if drained_at is None:
                    self._submit(pool)
                elif self._drained(drained_at):
                    raise KeyboardInterrupt
                self._take(pool, pool.wait(self._pause(), self._deadline_s()))
                self.file.tick(pool.wanted, pool.workers, pool.at_work())
                for watcher in self.watchers:
                    watcher(self.run)
                if self.stop:
                    raise JobError(self.stop)
            if self.run.given_up:
                raise JobError(self._given_up_message())

    def _submit(self, pool: Pool) -> None:
        while self.later and self.later[0][0] <= time.monotonic():
            self.todo.appendleft(heapq.heappop(self.later)[1])
        while self.todo and pool.room(len(self.todo)):
            number = self.todo.popleft()
            self.flying.add(number)
            pool.submit(self.plan.partition(number))

    def _take(self, pool: Pool, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Ready):
                self.starts_failed = 0
                self._check_fingerprints(event)
            elif isinstance(event, NoWorker):
                self._no_worker(event, pool.wanted)
            elif isinstance(event, Done):
                self._done(event)
            elif isinstance(event, Failed):
                self._failed(event.number, event.kind, event.message)
            elif isinstance(event, Lost):
                self._lost(event)
            else:
                self.flying.discard(event.number)
                self.todo.appendleft(event.number)

    def _done(self, event: Done) -> None:
        self.flying.discard(event.number)
        self.run.partitions["done"] += 1
        self.run.partitions["done_now"] += 1
        if event.outcome:
            self.file.add(event.outcome)
        rejects, records = self.run.rejects, self.run.rows + self.run.rejects
        budget = max(self.recipe.reject_share * records, self.recipe.reject_minimum)
        if rejects > budget and not self.run.retrying_rejects:
            common = Counter(self.run.reasons).most_common(5)
            self.stop = (
                f"{rejects} of {records} records were rejected, more than run.reject_share = "
                f"{self.recipe.reject_share:g} allows; the commonest reasons: "
                + "; ".join(f"{reason} ({count})" for reason, count in common)
            )

    def _lost(self, event: Lost) -> None:
        """A worker is gone: what it had committed is done, the next one is to blame."""
        waiting = [event.number, *event.behind]
        while waiting and (outcome := self._committed(waiting[0])):
            self._done(Done(waiting.pop(0), outcome))
        if waiting:
            self._failed(waiting[0], "lost", event.message)
        for number in reversed(waiting[1:]):
            self.flying.discard(number)
            self.todo.appendleft(number)

    def _committed(self, number: int) -> Outcome | None:
        if self.run.retrying_rejects:
            return None  # an older shard is there in any case
        try:
            return committed(self.storage, number)
        except OmniError:
            return None  # whoever begins it looks again

    def _failed(self, number: int, kind: str, message: str) -> None:
        self.flying.discard(number)
        self.run.failures = dict(Counter(self.run.failures) + Counter({kind: 1}))
        self.tries[number] += 1
        if kind in FATAL:
            self.stop = f"{message} (partition {number})"
        elif self.tries[number] < self.recipe.tries:
            pause = min(_LONGEST_PAUSE_S, _PAUSE_S * 2 ** (self.tries[number] - 1))
            # A tenth of spread by number keeps a crowd from coming back at the same moment.
            pause *= 1 + (number % 10) / 100
            heapq.heappush(self.later, (time.monotonic() + pause, number))
        else:
            name = self.plan.partition(number).name
            self.run.given_up.append({"partition": number, "name": name, "error": message})
            self.run.partitions["given_up"] += 1
            if len(self.run.given_up) >= self.recipe.failed_partitions:
                self.stop = self._given_up_message()

    def _no_worker(self, event: NoWorker, wanted: int) -> None:
        self.starts_failed += 1
        if event.kind:
            self.stop = event.message
        elif self.starts_failed >= wanted * max(_STARTS, self.recipe.tries):
            self.stop = f"{self.starts_failed} workers in a row did not start; {event.message}"

    def _check_fingerprints(self, event: Ready) -> None:
        """The first shard of an earlier run must be of the same tokenizers."""
        if self.first_done is not None:
            theirs = read_sidecar(self.storage, self.first_done).info.fingerprints
            name = self.storage.path(sidecar_name(self.first_done))
            check_fingerprints(theirs, event.fingerprints, name, "this run")

    def _given_up_message(self) -> str:
        worst = self.run.given_up[0]
        return (
            f"{len(self.run.given_up)} partitions failed {self.recipe.tries} times each; the first "
            f"is {worst['partition']} ({worst['name']}): {worst['error']}. What is done stays; run "
            "the same command again when the cause is mended"
        )

    def _pause(self) -> float:
        if not self.later or self.flying:
            return _POLL_S
        pause = min(_POLL_S, max(0.0, self.later[0][0] - time.monotonic()))
        if not self.todo:
            time.sleep(pause)  # nothing to wait for but the next try
        return pause

    def _deadline_s(self) -> float:
        if self.recipe.deadline_s is not None:
            return self.recipe.deadline_s
        return max(_LEAST_DEADLINE_S, _DEADLINE_MEDIANS * (self.file.median_s() or 0.0))

    def _drained(self, since: float) -> bool:
        late = time.monotonic() - since > self.recipe.drain_s
        return not self.flying or late or self.signals > 1

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM ask for an orderly end; where signals cannot be had, nothing is."""

        def note(_number: int, _frame: FrameType | None) -> None:
            self.signals += 1

        before: dict[int, Any] = {}
        try:
            for wanted in (signal.SIGINT, signal.SIGTERM):
                before[wanted] = signal.signal(wanted, note)
        except ValueError:  # not the main thread
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _finish(
    storage: Storage,
    file: RunFile,
    recipe_digest: str,
    on_index: Callable[[int, int], None] | None,
) -> Manifest:
    """Index and manifest, and the last word in the run file."""
    file.run.state = "indexing"

    def shard(done: int, total: int) -> None:
        file.beat()
        if on_index:
            on_index(done, total)

    manifest = compact(storage, recipe_digest=recipe_digest, on_shard=shard)
    if manifest.shards != file.run.partitions["total"]:
        raise SourceError(
            f"{storage.root}: {manifest.shards} shards for {file.run.partitions['total']} "
            "partitions: something removed files while the job ran; run it again"
        )
    file.run.state, file.run.eta_s = "finished", 0.0
    file.run.message = f"{manifest.rows} samples, {manifest.rejects} rejects"
    file.write()
    return manifest


def _finished(storage: Storage, recipe_digest: str) -> Manifest | None:
    """The manifest of an earlier run; whoever changes a corpus removes it first."""
    if storage.size(MANIFEST) is None or storage.size(INDEX) is None:
        return None
    try:
        manifest = read_manifest(storage)
    except CorpusError:
        return None  # damaged: made again
    return manifest if manifest.recipe_digest == recipe_digest else None
