"""Progress of training on stderr: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, Final, TextIO

_LINE_EVERY_S: Final = 10.0


class Display:
    """A sink that shows records (`sinks.Sink`).

    Args:
        steps: of the whole run.
        step: done so far.
        stream: where to; stderr by default.
        every_s: seconds between plain lines. The first and the last step, and evaluations, are
            always shown.
    """

    def __init__(
        self,
        steps: int,
        step: int = 0,
        stream: TextIO | None = None,
        every_s: float = _LINE_EVERY_S,
    ) -> None:
        self._steps, self._first, self._began = steps, step, time.monotonic()
        self._stream, self._every_s = stream or sys.stderr, every_s
        self._shown: float | None = None
        self._bar = _bar(steps, step, self._stream) if self._stream.isatty() else None

    def write(self, record: Mapping[str, Any]) -> None:
        """Show a record, or on a plain stream perhaps not."""
        step = int(record["step"])
        if self._bar is not None:
            if record["kind"] != "train":
                self._bar.console.print(other_line(record), markup=False, highlight=False)
                return
            self._bar.update(self._bar.task_ids[0], completed=step, figures=figures(record))
            return
        now = time.monotonic()
        due = self._shown is None or now - self._shown >= self._every_s or step >= self._steps
        if record["kind"] != "train":
            self._print(other_line(record))
        elif due:
            self._shown = now
            self._print(f"step {step} of {self._steps}: {figures(record)}{self._left(step)}")

    def close(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()

    def _left(self, step: int) -> str:
        """Time to the end at the pace so far."""
        done = step - self._first
        if done < 1 or step >= self._steps:
            return ""
        seconds = (time.monotonic() - self._began) / done * (self._steps - step)
        return f", {duration(seconds)} to go"

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def figures(record: Mapping[str, Any]) -> str:
    """One line of a training record: what a person watches."""
    parts = [f"loss {_number(record['loss'])}", f"{record['useful_tokens_per_s']:,.0f} tokens/s"]
    parts.append(f"fill {record['fill']:.0%}")
    waiting = record["data_wait_s"] / record["seconds"] if record["seconds"] else 0.0
    parts.append(f"data wait {waiting:.0%}")
    parts.append(f"{record['memory_mb'] / 1000:.1f} GB")
    if record.get("mfu") is not None:
        parts.append(f"MFU {record['mfu']:.0%}")
    if record["left_out"]:
        parts.append(f"{record['left_out']} samples left out")
    return ", ".join(parts)


def other_line(record: Mapping[str, Any]) -> str:
    """One line of a record that is no training step."""
    if record["kind"] == "left_out":
        return f"left out: {record['source']}, row {record['row']}: {record['reason']}"
    return evaluation_line(record)


def evaluation_line(record: Mapping[str, Any]) -> str:
    """One line of an evaluation: the loss, and each task's."""
    by_task = record["loss_by"]["task"]
    tasks = ", ".join(f"{task} {_number(loss)}" for task, loss in sorted(by_task.items()))
    return f"step {record['step']}: held-out loss {_number(record['loss'])} ({tasks})"


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `3 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _bar(steps: int, step: int, stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        MofNCompleteColumn(),
        BarColumn(20),
        Remaining(),
        TextColumn("{task.fields[figures]}"),
    )
    bar = Progress(*columns, console=Console(file=stream))
    bar.add_task("train", total=steps, completed=step, figures="")
    bar.start()
    return bar
