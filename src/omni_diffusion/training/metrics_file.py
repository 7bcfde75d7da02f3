"""`metrics.jsonl` of a run: one JSON object a line, in the order of the steps.

A line is written whole and flushed, so a killed run loses one line at most, and the torn rest of it
is skipped in reading and taken away in resuming.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from omni_diffusion.errors import OmniError
from omni_diffusion.training.metrics import Record, finite

NAME: Final = "metrics.jsonl"


class MetricsFile:
    """Appends records to a run's file. A context manager."""

    def __init__(self, run: str | os.PathLike[str]) -> None:
        """Open the file in a run's folder, which must exist."""
        self._file = (Path(run) / NAME).open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; figures that are not finite become null."""
        self._file.write(json.dumps(finite(dict(record)), allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Make sure that it is on disk."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()


def read_metrics(run: str | os.PathLike[str]) -> list[Record]:
    """All records of a run. A torn last line is not one.

    Args:
        run: its folder.

    Raises:
        OmniError: there is no file, or a line that is no record; names it.
    """
    path = Path(run) / NAME
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise OmniError(f"{path}: not there; is this the folder of a training run?") from None
    found: list[Record] = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is torn, or ""
        try:
            record = json.loads(line)
            _ = record["kind"], int(record["step"])
        except (ValueError, TypeError, KeyError):
            raise OmniError(f"{path}: line {number} is no record: {line[:60]!r}") from None
        found.append(record)
    return found


def cut_back(run: str | os.PathLike[str], step: int) -> int:
    """Take away what a run wrote after a step, so that going on from there writes it once.

    The new file replaces the old one at once: killed in between, one of them is whole.

    Args:
        run: its folder; a run without a file has nothing to take away.
        step: steps done; records up to it stay.

    Returns:
        Records that were taken away.

    Raises:
        OmniError: as `read_metrics`.
    """
    path = Path(run) / NAME
    if not path.exists():
        return 0
    records = read_metrics(run)
    kept = [record for record in records if record["step"] <= step]
    new = path.with_suffix(".tmp")
    with new.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in kept)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    return len(records) - len(kept)
