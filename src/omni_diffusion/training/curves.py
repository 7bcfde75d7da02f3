"""What a run's `metrics.jsonl` looks like: lines of each figure, ready to be drawn.

A line of many steps is drawn as the means of a few hundred runs of neighbouring records, so a page
stays small however long training was; evaluations are drawn as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from omni_diffusion.training.metrics import Record

POINTS: Final = 300
"""Of a line, at most."""
FEW_POINTS: Final = 60
"""Of a line among many, which would hide each other if they were as restless as they are."""

Reals = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """One line of a chart.

    Attributes:
        name: in the legend.
        steps: float64 [n].
        values: float64 [n].
        held_out: whether it is of the evaluation stream.
    """

    name: str
    steps: Reals
    values: Reals
    held_out: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over steps.

    Attributes:
        title: what is shown.
        unit: of the values.
        lines: trained ones first.
        note: a sentence for whoever sees it the first time.
        ordered: whether the lines follow an order, and so get colours that do.
        percent: whether values are parts of 1.
        from_zero: whether the axis begins there.
    """

    title: str
    unit: str
    lines: Sequence[Line]
    note: str = ""
    ordered: bool = False
    percent: bool = False
    from_zero: bool = False


def charts(records: Sequence[Record]) -> list[Chart]:
    """All charts that a run's records have something for.

    Args:
        records: from `read_metrics`, one or more.
    """
    losses = _loss_lines(records, lambda record: record.get("loss"))
    wanted = [
        Chart(title="Loss", unit="", lines=losses, note="What is minimised, weights included."),
        *(
            Chart(
                title=title,
                unit="nats",
                lines=_split(records, by),
                note=note,
                ordered=by == "t",
            )
            for by, title, note in (
                ("task", "Cross-entropy by task", "Mean over hidden tokens, unweighted."),
                ("modality", "Cross-entropy by modality", "Of the hidden token."),
                ("t", "Cross-entropy by mask ratio", "Parts of the answer that were hidden."),
            )
        ),
        _plain(records, "Useful tokens a second", "tokens/s", "useful_tokens_per_s"),
        Chart(
            title="Waiting for data",
            unit="part of the time",
            lines=[_line("data wait", records, _waiting)],
            percent=True,
            from_zero=True,
        ),
        replace(_plain(records, "Fill of the rows", "", "fill"), percent=True),
        _plain(records, "Memory", "GB", "memory_mb", 1e-3),
        replace(_plain(records, "Model FLOPs utilisation", "", "mfu"), percent=True),
        _plain(records, "Gradient norm", "", "grad_norm"),
        _plain(records, "Learning rate", "", "lr"),
    ]
    full = [replace(c, lines=[line for line in c.lines if len(line.steps)]) for c in wanted]
    return [chart for chart in full if chart.lines]


def summary(records: Sequence[Record]) -> dict[str, str]:
    """The figures at a glance: name to text."""
    train = [record for record in records if record["kind"] == "train"]
    held_out = [record for record in records if record["kind"] == "eval"]
    found = {"steps": f"{max(record['step'] for record in records):,}"}
    if train:
        seconds = sum(record["seconds"] for record in train)
        useful = sum(record["tokens"]["useful"] for record in train)
        found["loss"] = f"{_number(train[0]['loss'])} → {_number(train[-1]['loss'])}"
    if held_out:
        found["held-out loss"] = f"{_number(held_out[0]['loss'])} → {_number(held_out[-1]['loss'])}"
    if train:
        found["useful tokens"] = f"{useful:,}"
        found["tokens a second"] = f"{useful / seconds:,.0f}" if seconds else "?"
        waited = sum(record["data_wait_s"] for record in train)
        found["data wait"] = f"{waited / seconds:.1%}" if seconds else "?"
        found["time of steps"] = f"{seconds / 60:,.1f} min"
        if left_out := sum(record["left_out"] for record in train):
            found["samples left out"] = f"{left_out:,}"
    return found


def _plain(records: Sequence[Record], title: str, unit: str, key: str, scale: float = 1.0) -> Chart:
    def value(record: Record) -> float | None:
        found = record.get(key)
        return None if found is None else found * scale

    return Chart(title=title, unit=unit, lines=[_line(key, records, value)], from_zero=True)


def _waiting(record: Record) -> float | None:
    return record["data_wait_s"] / record["seconds"] if record["seconds"] else None


def _split(records: Sequence[Record], by: str) -> list[Line]:
    """Two lines, trained and held out, for each name that the losses are told apart by."""

    def of(name: str) -> Callable[[Record], float | None]:
        return lambda record: record["loss_by"][by].get(name)

    names = sorted({name for record in records for name in record["loss_by"][by]})
    pairs = [_loss_lines(records, of(name), name, FEW_POINTS) for name in names]
    return [line for which in (0, 1) for line in (pair[which] for pair in pairs)]


def _loss_lines(
    records: Sequence[Record],
    value: Callable[[Record], float | None],
    name: str = "",
    points: int = POINTS,
) -> list[Line]:
    train = _line(name or "trained", records, value, points=points)
    held_out = _line(name or "held out", records, value, kind="eval")
    return [train, replace(held_out, held_out=True)]


def _line(
    name: str,
    records: Sequence[Record],
    value: Callable[[Record], Any],
    kind: str = "train",
    points: int = POINTS,
) -> Line:
    found = [(r["step"], value(r)) for r in records if r["kind"] == kind]
    given = np.array([(s, v) for s, v in found if v is not None], np.float64).reshape(-1, 2)
    if kind == "train":
        given = thinned(given, points)
    return Line(name=name, steps=given[:, 0], values=given[:, 1])


def thinned(points: Reals, most: int) -> Reals:
    """Means of neighbouring points: [n, 2] to at most `most` of them; the last step stays."""
    if len(points) <= most:
        return points
    edges = np.linspace(0, len(points), most + 1).astype(int)[:-1]
    sums = np.add.reduceat(points, edges, axis=0)
    means: Reals = sums / np.diff(edges, append=len(points))[:, None]
    means[-1, 0] = points[-1, 0]
    return means


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
