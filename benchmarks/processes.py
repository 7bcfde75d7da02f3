"""Measurements in processes of their own: nothing of one weighs on another's time or memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

Fields = dict[str, Any]
Task = Callable[..., Fields]


def tasks_of(names: Mapping[str, Any]) -> dict[str, Task]:
    """The functions `task_NAME` among a script's globals, by NAME."""
    start = "task_"
    return {n.removeprefix(start): found for n, found in names.items() if n.startswith(start)}


def run_task(tasks: Mapping[str, Task], told: str) -> None:
    """What `--task` is for: run the one that `in_process` named, and print its figures."""
    name, arguments = json.loads(told)
    print(json.dumps(tasks[name](**arguments)))


def in_process(
    script: str, name: str, /, environment: dict[str, str] | None = None, **arguments: Any
) -> Fields:
    """Run `SCRIPT --task [name, arguments]` and read the JSON that it prints."""
    command = [sys.executable, script, "--task", json.dumps([name, arguments])]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **(environment or {})}
    )
    if done.returncode:
        raise RuntimeError(f"{name} {arguments}: {done.stderr[-2000:]}")
    found: Fields = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
