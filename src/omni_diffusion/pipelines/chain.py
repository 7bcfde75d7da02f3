"""A chain of verbs, one process each, so that no step can leave anything behind for the next."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from omni_diffusion.errors import JobError
from omni_diffusion.recipe import Recipe

JOBS = frozenset({"tokenize", "synthesize"})
"""Verbs that run a recipe on the engine: they take overrides and `--dry-run`."""


class ChainRecipe(Recipe):
    """Steps in order; each is a command line without the program's name."""

    steps: tuple[str, ...] = Field(min_length=1)
    #: E.g. `tokenize tokenize/demo.yaml`; quotes as in a shell, but nothing else of one.
    overrides: tuple[str, ...] = ()
    #: `key=value` texts that are added to every job of the chain, e.g. run.ray.address=auto.


def run_chain(
    recipe: ChainRecipe, on_step: Callable[[str], None], *, dry_run: bool = False
) -> None:
    """Run all steps.

    Args:
        recipe: the steps.
        on_step: called with a line before and after each.
        dry_run: only let each job say what it would do. What a job cannot say because an earlier
            step has not run yet is told, and the next one asked.

    Raises:
        JobError: a step failed; names it and its exit code.
        KeyboardInterrupt: interrupted; the step at work has ended in its own order.
    """
    count = len(recipe.steps)
    commands = [_words(recipe, number) for number in range(count)]
    for number, words in enumerate(commands, 1):
        step = shlex.join(words)
        on_step(f"[{number}/{count}] {step}")
        if dry_run and words[0] not in JOBS:
            continue
        started = time.monotonic()
        code = _run([sys.executable, "-m", "omni_diffusion", *words, *["--dry-run"] * dry_run])
        if code == 130 or code in (-signal.SIGINT, -signal.SIGTERM):
            raise KeyboardInterrupt
        if dry_run:
            on_step(
                f"[{number}/{count}] " + ("nothing can be said yet" if code else "nothing done")
            )
        elif code:
            raise JobError(
                f"step {number} of {count} ({step}) ended with exit code {code}; what is done "
                "stays: run the same command again when the cause is mended"
            )
        else:
            on_step(f"[{number}/{count}] done in {time.monotonic() - started:.1f} s")


def _words(recipe: ChainRecipe, number: int) -> list[str]:
    """One step as a program would get it."""
    step = recipe.steps[number]
    try:
        words = shlex.split(step)
    except ValueError as error:
        raise JobError(f"step {number + 1}: {step!r}: {error}") from None
    if not words:
        raise JobError(f"step {number + 1} is empty")
    return [*words, *recipe.overrides] if words[0] in JOBS else words


def run_step(step: str, folder: Path) -> None:
    """Run one command line in a folder.

    Args:
        step: without the program's name; quotes as in a shell.
        folder: that its paths are relative to.

    Raises:
        JobError: it failed; names it and its exit code.
        KeyboardInterrupt: interrupted; the command has ended in its own order.
    """
    code = _run([sys.executable, "-m", "omni_diffusion", *shlex.split(step)], folder)
    if code in (130, -signal.SIGINT, -signal.SIGTERM):
        raise KeyboardInterrupt
    if code:
        raise JobError(
            f"the step `{step}` ended with exit code {code}; what is done stays: run the same "
            "command again when the cause is mended"
        )


def _run(words: list[str], folder: Path | None = None) -> int:
    """Exit code of a command; a request to stop reaches it too, and its end is waited for."""
    with subprocess.Popen(words, cwd=folder) as process, _passing_on(process):
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # Ctrl-C goes to the whole group of processes


@contextmanager
def _passing_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """SIGTERM comes to one process alone, so the step would go on without its chain."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
