"""Whatever is killed, and whenever: the corpus is the undisturbed one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chaos import Chaos


def test_twenty_kills_leave_no_trace(ray_cluster: Any, tmp_path: Path) -> None:
    """Worker processes, whole nodes and the driver die at random; no byte of the corpus differs.

    Nothing that was committed is done again, and no temporary file stays.
    """
    lines: list[str] = []
    trial = Chaos(ray_cluster, tmp_path, kills=20, seed=2, say=lines.append)
    trial.run()
    assert trial.killed.total() >= 20, lines
    assert set(trial.killed) == {"worker", "node", "driver"}, lines
