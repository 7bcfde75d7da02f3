"""A pool of Ray actors.

Ray's own restarts and retries stay off: what died, what hangs and what is tried again is decided
in one place, the engine. Two partitions are in flight a worker, so that none waits for the driver;
near the end only one, so that the last ones are spread over all workers.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private.services import get_ray_address_from_environment
from ray.exceptions import RayActorError, RayError, RayTaskError, TaskCancelledError

from omni_diffusion.errors import JobError, OmniError
from omni_diffusion.pipelines.pool import (
    AtWork,
    Done,
    Event,
    Failed,
    Hands,
    Job,
    Lost,
    NoWorker,
    Ready,
    Returned,
)
from omni_diffusion.pipelines.run_recipe import RayRecipe
from omni_diffusion.pipelines.sources.partition import Partition

IN_FLIGHT = 2
"""Partitions a worker: one at work, one waiting behind it."""

_REACH_S = 10.0


class _Actor:
    """Runs in a worker process."""

    def setup(self, job: Job, retrying: bool) -> Ready | NoWorker:
        try:
            self._hands = Hands.of(job, retrying)
        except OmniError as error:
            return NoWorker(type(error).__name__, str(error))
        return Ready(dict(self._hands.worker.fingerprints))

    def work(self, partition: Partition) -> Done | Failed:
        return self._hands.work(partition)


@dataclass(slots=True)
class _Slot:
    """One actor as the driver sees it."""

    actor: Any
    setup: Any
    flight: deque[tuple[int, Any]] = field(default_factory=deque)
    since: float = 0.0
    #: When the first partition in flight became the one at work.


class RayPool:
    """Actors on a cluster. Connects to Ray if this process is not connected yet.

    Args:
        job: what they work on.
        recipe: address and number of workers, their share of CPUs and GPUs.
        retrying: only rejected records are tried again.

    Raises:
        JobError: there is no cluster at the address, or it is too small for one worker.
    """

    def __init__(self, job: Job, recipe: RayRecipe, *, retrying: bool = False) -> None:
        self._job, self._recipe, self._retrying = job, recipe, retrying
        self._connected_here = connect(recipe.address)
        self._class = ray.remote(_Actor).options(
            num_cpus=recipe.cpus_per_worker,
            num_gpus=recipe.gpus_per_worker,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        self.wanted = recipe.workers or _workers_that_fit(recipe)
        self._slots = [self._new_slot() for _ in range(self.wanted)]

    @property
    def workers(self) -> int:
        """See `Pool`."""
        return sum(slot.setup is None for slot in self._slots)

    def room(self, waiting: int) -> bool:
        """See `Pool`."""
        slot = self._least_busy()
        limit = IN_FLIGHT if waiting > self.wanted else 1
        return slot is not None and len(slot.flight) < limit

    def submit(self, partition: Partition) -> None:
        """See `Pool`."""
        slot = self._least_busy()
        assert slot is not None
        if not slot.flight:
            slot.since = time.monotonic()
        slot.flight.append((partition.number, slot.actor.work.remote(partition)))

    def wait(self, timeout_s: float, deadline_s: float) -> list[Event]:
        """See `Pool`."""
        refs = [slot.setup for slot in self._slots if slot.setup is not None]
        refs += [ref for slot in self._slots for _, ref in slot.flight]
        if refs:
            ray.wait(refs, num_returns=1, timeout=timeout_s)
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        else:
            ready = []
        done = set(ready)
        events: list[Event] = []
        for slot in list(self._slots):
            events += self._collect(slot, done)
        for slot in list(self._slots):
            if slot.flight and time.monotonic() - slot.since > deadline_s:
                events += self._replace(slot, f"no answer within {deadline_s:.0f} s")
        return events

    def at_work(self) -> list[AtWork]:
        """See `Pool`."""
        now = time.monotonic()
        return [
            AtWork(slot.flight[0][0], now - slot.since, slot.actor._actor_id.hex()[:8])
            for slot in self._slots
            if slot.flight
        ]

    def drain(self) -> list[Event]:
        """See `Pool`."""
        for slot in self._slots:
            for _, ref in list(slot.flight)[1:]:
                ray.cancel(ref)
        return []

    def close(self) -> None:
        """See `Pool`."""
        for slot in self._slots:
            ray.kill(slot.actor, no_restart=True)
        self._slots = []
        if self._connected_here:
            ray.shutdown()

    def _new_slot(self) -> _Slot:
        actor: Any = self._class.remote()
        return _Slot(actor, actor.setup.remote(self._job, self._retrying))

    def _least_busy(self) -> _Slot | None:
        free = [slot for slot in self._slots if slot.setup is None]
        return min(free, key=lambda slot: len(slot.flight), default=None)

    def _collect(self, slot: _Slot, done: set[Any]) -> list[Event]:
        """Events of one actor whose answers have come."""
        events: list[Event] = []
        if slot.setup in done:
            try:
                event = ray.get(slot.setup)
            except RayTaskError as error:
                event = NoWorker("bug", str(error))
            except RayError as error:
                event = NoWorker("", f"a worker process died while it loaded: {_first(error)}")
            if isinstance(event, NoWorker):
                self._drop(slot)
                if not event.kind:
                    self._slots.append(self._new_slot())
                return [event]
            slot.setup = None
            events.append(event)
        for number, ref in list(slot.flight):
            if ref not in done:
                continue
            try:
                event = ray.get(ref)
            except TaskCancelledError:
                event = Returned(number)
            except RayActorError as error:
                return events + self._replace(slot, _first(error))
            except RayError as error:  # an exception in our code: told with its traceback
                event = Failed(number, "bug", str(error))
            slot.flight.remove((number, ref))
            slot.since = time.monotonic()
            events.append(event)
        return events

    def _replace(self, slot: _Slot, why: str) -> list[Event]:
        """End an actor that died or hangs and start another; its work is told or given back."""
        first, *behind = (number for number, _ in slot.flight)
        self._drop(slot)
        self._slots.append(self._new_slot())
        return [Lost(first, why, tuple(behind))]

    def _drop(self, slot: _Slot) -> None:
        ray.kill(slot.actor, no_restart=True)
        self._slots.remove(slot)


def connect(address: str | None) -> bool:
    """Connect this process to Ray.

    Args:
        address: of a cluster, or None for a Ray of its own on this machine.

    Returns:
        Whether it was not connected before.

    Raises:
        JobError: there is no cluster at the address.
    """
    if ray.is_initialized():
        return False
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    try:
        _check_reachable(address)
        if address is None:
            ray.init(address="local", include_dashboard=False, **settings)
        else:
            ray.init(address=address, **settings)
    except Exception as error:  # Ray raises nothing narrower, e.g. when it is late
        raise JobError(
            f"no Ray cluster at {address or 'this machine'}: {_first(error)}; start one with "
            "`ray start --head` (where it asks for a token, set RAY_AUTH_MODE=token and the same "
            "token here), leave out run.ray.address for one on this machine, or use --local"
        ) from error
    return True


def _check_reachable(address: str | None) -> None:
    """Ray itself goes on asking a cluster that is gone for some minutes.

    Raises:
        OSError: nothing listens there.
    """
    if address is not None and not address.startswith("local"):
        place = get_ray_address_from_environment(address, None).removeprefix("ray://")
        host, _, port = place.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REACH_S).close()
        except OSError as error:
            raise ConnectionError(f"nothing answers at {place} ({error})") from None


def _workers_that_fit(recipe: RayRecipe) -> int:
    """As many workers as the cluster holds at present."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    shares = {"CPU": recipe.cpus_per_worker, "GPU": recipe.gpus_per_worker}
    fit = [int(resources.get(name, 0) / share) for name, share in shares.items() if share]
    if not (count := min(fit, default=1)):
        raise JobError(
            f"the cluster has {resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} "
            f"GPUs, one worker asks for {shares['CPU']:g} and {shares['GPU']:g}; where it grows on "
            "demand, say how many workers it shall have (run.ray.workers)"
        )
    return count


def _first(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
