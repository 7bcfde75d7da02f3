"""How a job shows itself: a live line on a terminal, a plain one now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omni_diffusion.pipelines.engine import OnTick
    from omni_diffusion.pipelines.run_file import Run

_LINE_EVERY_S = 10.0


@contextmanager
def job_progress(what: str) -> Iterator[OnTick]:
    """Yields what the engine calls with the state of its run.

    Args:
        what: the verb, as the user typed it.
    """
    if not sys.stderr.isatty():
        yield _lines(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, now="starting workers")
        yield lambda run: bar.update(
            task, completed=run.partitions["done"], total=run.partitions["total"], now=now(run)
        )


def planned(what: str) -> Callable[[int], None]:
    """What the engine calls with the number of partitions found so far; a line now and then."""
    last = time.monotonic()

    def show(count: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_EVERY_S:
            last = time.monotonic()
            print(f"{what}: {count} partitions found so far", file=sys.stderr, flush=True)

    return show


def now(run: Run) -> str:
    """The state of a run in a few words."""
    ready, wanted = run.workers.get("ready", 0), run.workers.get("wanted", 0)
    if not ready and run.state == "running":
        return f"waiting for {wanted} workers"
    parts = [f"{run.rows + run.rejects} records"]
    if run.records_per_s:
        parts.append(f"{run.records_per_s:.3g}/s")
    if run.rejects:
        parts.append(f"{run.rejects} rejected")
    if run.failures:
        parts.append(f"{sum(run.failures.values())} tries failed")
    parts.append(f"{ready} of {wanted} workers, busy {run.busy_share:.0%}")
    if run.stragglers:
        slowest = run.stragglers[0]
        parts.append(f"slow: partition {slowest['partition']} ({slowest['seconds']:.0f} s)")
    if run.eta_s:
        parts.append(f"{duration(run.eta_s)} left")
    if run.state == "draining":
        parts.append("finishing what is at work")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """`42 s`, `3.5 min`, `2.1 h` or `1.5 d`."""
    for size, unit, up_to in ((1, "s", 100), (60, "min", 100 * 60), (3600, "h", 48 * 3600)):
        if seconds < up_to:
            return f"{seconds / size:.2g} {unit}" if size > 1 else f"{seconds:.0f} {unit}"
    return f"{seconds / 86400:.2g} d"


def _lines(what: str) -> OnTick:
    last = time.monotonic()

    def show(run: Run) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_EVERY_S:
            last = time.monotonic()
            done, total = run.partitions["done"], run.partitions["total"]
            print(f"{what}: {done} of {total} partitions, {now(run)}", file=sys.stderr, flush=True)

    return show
