"""A chain of verbs, one process each, so that no step can leave anything behind for the next."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from pydantic import Field

from omni_diffusion.errors import JobError
from omni_diffusion.recipe import Recipe


class ChainRecipe(Recipe):
    """Steps in order; each is a command line without the program's name."""

    steps: tuple[str, ...] = Field(min_length=1)
    #: E.g. `tokenize tokenize/demo.yaml`; quotes as in a shell, but nothing else of one.


def run_chain(recipe: ChainRecipe, on_step: Callable[[str], None]) -> None:
    """Run all steps.

    Args:
        recipe: the steps.
        on_step: called with a line before and after each.

    Raises:
        JobError: a step failed; names it and its exit code.
        KeyboardInterrupt: interrupted; the step at work has ended in its own order.
    """
    count = len(recipe.steps)
    for number, step in enumerate(recipe.steps, 1):
        try:
            words = shlex.split(step)
        except ValueError as error:
            raise JobError(f"step {number}: {step!r}: {error}") from None
        on_step(f"[{number}/{count}] {step}")
        started = time.monotonic()
        code = _run([sys.executable, "-m", "omni_diffusion", *words])
        if code == 130 or code == -signal.SIGINT:
            raise KeyboardInterrupt
        if code:
            raise JobError(
                f"step {number} of {count} ({step}) ended with exit code {code}; what is done "
                "stays: run the same command again when the cause is mended"
            )
        on_step(f"[{number}/{count}] done in {time.monotonic() - started:.1f} s")


def _run(words: list[str]) -> int:
    """Exit code of a command; an interrupt reaches it too and is waited for."""
    with subprocess.Popen(words) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue
