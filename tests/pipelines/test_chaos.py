"""Whatever is killed, and whenever: the corpus is the undisturbed one."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

CHAOS = Path(__file__).parents[1] / "support/chaos.py"


def test_twenty_kills_leave_no_trace() -> None:
    """Worker processes, whole nodes and the driver die at random; no byte of the corpus differs.

    Nothing that was committed is done again, and no temporary file stays. It has a Ray of its own,
    in a process of its own: nobody else's nodes are killed.
    """
    words = [sys.executable, str(CHAOS), "--kills", "20", "--seed", "2"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = done.stdout
    assert done.returncode == 0, f"{said}\n{done.stderr[-1500:]}"
    killed = Counter(re.findall(r"kill +\d+: (\w+)", said))
    assert killed == {"worker": 14, "driver": 3, "node": 3}, said
