"""One request on the server: where it stands, and who wants to hear of it."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from omni_diffusion.generation.ask import Ask

Stage = Literal["waiting", "running", "done", "failed", "cancelled"]
FINAL = frozenset({"done", "failed", "cancelled"})


class Job:
    """A request and its latest state. A worker publishes; any number of listeners wait.

    Only the latest state is kept: a listener that is slow misses steps, and costs no memory.

    Attributes:
        id: not to be guessed, since whoever has it may look.
        ask: what is asked.
    """

    def __init__(self, ask: Ask) -> None:
        self.id, self.ask = secrets.token_urlsafe(12), ask
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {"id": self.id, "task": ask.task, "stage": "waiting"}
        self._version = 0
        self._listeners: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._unwanted = False

    @property
    def final(self) -> bool:
        """Whether nothing more will happen."""
        return self._state["stage"] in FINAL

    @property
    def unwanted(self) -> bool:
        """Whether it was cancelled."""
        return self._unwanted

    @property
    def heard(self) -> bool:
        """Whether anybody listens, so that a preview is worth its time."""
        return bool(self._listeners)

    def cancel(self) -> None:
        """Say that nobody wants the answer; the worker stops at the next step."""
        self._unwanted = True

    def publish(self, stage: Stage, **facts: Any) -> None:
        """Replace the state, and wake the listeners. A final state stays."""
        with self._lock:
            if self.final:
                return
            self._state = {"id": self.id, "task": self.ask.task, "stage": stage, **facts}
            self._version += 1
            listeners = list(self._listeners)
        for loop, event in listeners:
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # its loop has ended: the server is going down
                continue

    def state(self) -> tuple[int, Mapping[str, Any]]:
        """Version and latest state."""
        with self._lock:
            return self._version, self._state

    @contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        """An event of the running loop that is set with every new state."""
        entry = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            self._listeners.add(entry)
        try:
            yield entry[1]
        finally:
            with self._lock:
                self._listeners.discard(entry)
