"""The desk: takes requests up to a bound, and one thread that answers them side by side.

Everything that grows is bounded: requests that wait or are being sent, answers under way at once,
and finished ones that are kept to be looked at. What is over is refused at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

from omni_diffusion.errors import OmniError
from omni_diffusion.generation.ask import Ask
from omni_diffusion.generation.layout import Prepared
from omni_diffusion.generation.sampler import Progress, State, admit, denoise_step, finish, prepare
from omni_diffusion.generation.serving.job import Job
from omni_diffusion.generation.serving.media import preview, result
from omni_diffusion.generation.studio import Studio, hidden_tokens

_LOG = logging.getLogger(__name__)


class BusyError(OmniError):
    """The desk takes no further request at the moment."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a server takes on.

    Attributes:
        waiting: requests that wait for their turn, those being sent included.
        together: answers that are denoised side by side.
        kept: finished answers that can still be fetched.
        body_bytes: largest request.
        preview_s: pause between two previews of a picture.
    """

    waiting: int = 16
    together: int = 4
    kept: int = 32
    body_bytes: int = 16 << 20
    preview_s: float = 0.4


@dataclass(eq=False)
class _Active:
    """A job under way.

    Attributes:
        job: what was asked.
        prepared: laid out.
        progress: the sampler's.
        total: tokens that were hidden at first.
        previewed_s: when its last preview was made.
        picture: that preview, as a data URL.
        started_s: when its turn came.
    """

    job: Job
    prepared: Prepared
    progress: Progress
    total: int
    started_s: float
    previewed_s: float = 0.0
    picture: str = ""


class Desk:
    """See the module."""

    def __init__(self, studio: Studio, bounds: Bounds) -> None:
        self.studio, self.bounds = studio, bounds
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._places = 0  # taken by waiting jobs and by requests that are being sent
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._closed = False
        self._state: State | None = None
        self._active: list[_Active] = []
        self._thread = threading.Thread(target=self._work, name="desk", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the present step; what is unfinished fails."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def take_place(self) -> None:
        """Claim a place before a request is read, so that only so many are in memory.

        Raises:
            BusyError: all are taken.
        """
        with self._changed:
            if self._places >= self.bounds.waiting:
                raise BusyError(
                    f"{self._places} requests are waiting already, which is all that this server "
                    "takes: try again in a moment"
                )
            self._places += 1

    def leave_place(self) -> None:
        """Give up a place without a request."""
        with self._changed:
            self._places -= 1

    def submit(self, ask: Ask) -> Job:
        """Queue a request, in a place that was taken before."""
        job = Job(ask)
        with self._changed:
            self._waiting.append(job)
            self._jobs[job.id] = job
            self._forget()
            self._changed.notify_all()
        return job

    def find(self, job_id: str) -> Job | None:
        """A job by its id, as long as it is kept."""
        with self._changed:
            return self._jobs.get(job_id)

    def counts(self) -> dict[str, int]:
        """Jobs that wait, are under way, and are kept."""
        with self._changed:
            waiting, active = len(self._waiting), len(self._active)
            return {"waiting": waiting, "running": active, "kept": len(self._jobs)}

    def _forget(self) -> None:
        """Drop the oldest finished jobs beyond the bound; needs the lock."""
        final = [job.id for job in self._jobs.values() if job.final]
        for job_id in final[: max(len(final) - self.bounds.kept, 0)]:
            del self._jobs[job_id]

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting or self._active)
                if self._closed:
                    break
            try:
                self._admit()
                if self._active:
                    self._step()
            except Exception:  # noqa: BLE001 - the server stays up; those under way are told
                _LOG.exception("a step failed")
                for active in self._active:
                    active.job.publish("failed", error="internal error; the server's log says more")
                self._active, self._state = [], None
        with self._changed:
            rest = [*(a.job for a in self._active), *self._waiting]
        for job in rest:
            job.publish("failed", error="the server was stopped")

    def _admit(self) -> None:
        """Bring waiting jobs in while there is room and they share the cache's setting."""
        while len(self._active) < self.bounds.together:
            with self._changed:
                if not self._waiting:
                    return
                job = self._waiting[0]
            try:
                ready = None if job.unwanted else self._laid(job)
            except OmniError as error:
                job.publish("failed", error=str(error))
                ready = None
            if ready is not None and not self._fits(ready):
                return
            with self._changed:
                self._waiting.popleft()
                self._places -= 1
            if ready is None:
                job.publish("cancelled")
                continue
            self._begin(job, ready)

    def _laid(self, job: Job) -> Prepared:
        return self.studio.prepare(job.ask)

    def _fits(self, prepared: Prepared) -> bool:
        if not self._active or self._state is None:
            return True
        return prepared.sampler.cache_refresh == self._state.passes.refresh

    def _begin(self, job: Job, prepared: Prepared) -> None:
        config = self.studio.model.config
        if not self._active or self._state is None:
            self._state = prepare(config, [], [])
            self._state.passes.refresh = prepared.sampler.cache_refresh
        progress = admit(self._state, prepared.request, prepared.sampler)
        total = hidden_tokens(progress.ids, config.mask_token_id)
        active = _Active(job, prepared, progress, total, time.monotonic())
        self._active.append(active)
        self._tell(active)

    def _step(self) -> None:
        assert self._state is not None
        denoise_step(self.studio.model, self._state)
        for active in list(self._active):
            if active.progress.done:
                self._leave(active)
                self._finish(active)
            elif active.job.unwanted:
                self._leave(active)
                active.job.publish("cancelled")
            else:
                self._tell(active)

    def _leave(self, active: _Active) -> None:
        assert self._state is not None
        self._active.remove(active)
        self._state.answers.remove(active.progress)

    def _tell(self, active: _Active) -> None:
        """Publish how far an answer has come, now and then with what it looks like."""
        kit, progress = self.studio.kit, active.progress
        start = progress.request.answer_start
        facts: dict[str, Any] = {
            "step": progress.steps_done,
            "steps": progress.steps,
            "known": active.total - hidden_tokens(progress.ids, kit.template.vocabulary.mask_id),
            "total": active.total,
        }
        now = time.monotonic()
        fresh = now - active.previewed_s >= self.bounds.preview_s
        drawn = preview(active.prepared, progress.ids[start:], kit, draw=fresh and active.job.heard)
        if drawn.get("picture"):
            active.picture, active.previewed_s = drawn["picture"], time.monotonic()
        elif active.picture:
            drawn["picture"] = active.picture
        active.job.publish("running", **facts, **drawn)

    def _finish(self, active: _Active) -> None:
        assert self._state is not None
        alone = State(self._state.config, [active.progress], self._state.passes)
        (answer,) = finish(alone)
        seconds = time.monotonic() - active.started_s
        try:
            reply = self.studio.reply(active.prepared, answer, answer.steps, seconds)
            active.job.publish("done", **result(reply))
        except OmniError as error:
            active.job.publish("failed", error=str(error))
