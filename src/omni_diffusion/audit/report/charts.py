"""Answers as drawings: bars, ranges and shades for the template, curves as SVG.

Words stand in HTML only: a curve's drawing holds numbers and nothing that came from the corpus.
Colours are names of the page's style (`--s1`, ...), so that they fit its light and its dark form.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from omni_diffusion.audit.named import Plot
from omni_diffusion.audit.report.text import MOST_IN_LABEL, brief, cell, heading, is_share

Row = Mapping[str, Any]

MOST_BARS = 24
MOST_SERIES = 8
"""As many as there are colours."""

MOST_SHADES = 40
_SAMPLES = "samples"
MOST_COLUMNS = 12
_RANGE = ("p05", "p25", "median", "p75", "p95")


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Groups of horizontal bars.

    Attributes:
        series: what the bars of a group stand for.
        groups: label, and for each series the part of the full width and the value in words.
        hidden: groups that are not shown.
    """

    series: list[str]
    groups: list[tuple[str, list[tuple[float, str]]]]
    hidden: int
    kind: str = "bars"


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Lines from the 5th to the 95th percentile, with the middle half and the median.

    Attributes:
        rows: label, places of the five quantiles as parts of the width, and the values in words.
        most: the value at the right edge.
    """

    rows: list[tuple[str, list[float], str]]
    most: str
    hidden: int
    kind: str = "ranges"


@dataclass(frozen=True, kw_only=True)
class Shades:
    """A heat map.

    Attributes:
        measure: what the shades stand for.
        rows: label, and for each column the shade from 0 to 1 and the value in words.
    """

    measure: str
    columns: list[str]
    rows: list[tuple[str, list[tuple[float, str]]]]
    hidden: int
    kind: str = "shades"


@dataclass(frozen=True, kw_only=True)
class Curves:
    """A drawing of lines.

    Attributes:
        svg: the drawing, without words.
        series: names of the lines, in the order of the colours.
        axes: what stands on both axes, in words.
    """

    svg: Markup
    series: list[str]
    axes: tuple[str, str]
    hidden: int
    kind: str = "curves"


Chart = Bars | Ranges | Shades | Curves


def chart(plot: Plot, rows: Sequence[Row]) -> Chart | None:
    """The drawing of an answer; None where there is nothing to draw."""
    if not rows or plot.kind == "table" or not plot.y:
        return None
    if plot.kind == "line":
        return _curves(plot, rows)
    if plot.kind == "heatmap":
        return _shades(plot, rows)
    return _ranges(plot, rows) if set(_RANGE) <= set(rows[0]) else _bars(plot, rows)


def _label(row: Row, *columns: str | None) -> str:
    """What names a row; bins are named by both ends, and what is of all bins by that."""
    if columns[-1] == "from_ids" and "to_ids" in row:
        return f"{cell(row['from_ids'])}–{cell(row['to_ids'])}" if row["to_ids"] else "all"
    named = (cell(row[c], c) if row[c] is not None else "(none)" for c in columns if c)
    return brief(" · ".join(named), MOST_IN_LABEL)


def _bars(plot: Plot, rows: Sequence[Row]) -> Bars | None:
    present = [y for y in plot.y if any(_number(row[y]) for row in rows)]
    unknown = not any(_is_known(row[y]) for row in rows for y in plot.y)
    if unknown and any(_number(row.get(_SAMPLES)) for row in rows):
        present = [_SAMPLES]  # of a media corpus, which has no tokens
    full = max((_number(row[y]) for row in rows for y in present), default=0)
    if not full:
        return None
    groups = []
    for row in rows[:MOST_BARS]:
        bars = [(max(0.0, _number(row[y]) / full), cell(row[y], y)) for y in present]
        groups.append((_label(row, plot.by, plot.x), bars))
    series = [heading(y) for y in present]
    return Bars(series=series, groups=groups, hidden=max(0, len(rows) - MOST_BARS))


def _is_known(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _number(value: Any) -> float:
    return float(value) if _is_known(value) else 0.0


def _ranges(plot: Plot, rows: Sequence[Row]) -> Ranges | None:
    drawn = [row for row in rows if all(row[q] is not None for q in _RANGE)]
    full = max((row["p95"] for row in drawn), default=0)
    if not full:
        return None
    lines = []
    for row in drawn[:MOST_BARS]:
        low, _, middle, _, high = (cell(row[q]) for q in _RANGE)
        places = [row[q] / full for q in _RANGE]
        lines.append((_label(row, plot.x), places, f"{middle} ({low} to {high})"))
    return Ranges(rows=lines, most=cell(full), hidden=max(0, len(drawn) - MOST_BARS))


def _shades(plot: Plot, rows: Sequence[Row]) -> Shades | None:
    measure = plot.y[0]
    columns = list(dict.fromkeys(_label(row, plot.x) for row in rows))
    lines: dict[str, dict[str, float]] = {}
    for row in rows:
        lines.setdefault(_label(row, plot.by), {})[_label(row, plot.x)] = row[measure] or 0
    full = max(value for line in lines.values() for value in line.values())
    if not full:
        return None
    shown = [
        (
            name,
            [(line.get(c, 0) / full, cell(line.get(c), measure)) for c in columns[:MOST_COLUMNS]],
        )
        for name, line in list(lines.items())[:MOST_SHADES]
    ]
    hidden = max(0, len(lines) - MOST_SHADES) + max(0, len(columns) - MOST_COLUMNS)
    return Shades(
        measure=heading(measure), columns=columns[:MOST_COLUMNS], rows=shown, hidden=hidden
    )


def _curves(plot: Plot, rows: Sequence[Row]) -> Curves | None:
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for y in plot.y:
            if row[plot.x] is not None and row[y] is not None:
                name = _label(row, plot.by) if plot.by else heading(y)
                lines.setdefault(name, []).append((float(row[plot.x]), float(row[y])))
    if not lines:
        return None
    largest = sorted(lines, key=lambda name: -sum(y for _, y in lines[name]))
    shown = [name for name in lines if name in largest[:MOST_SERIES]]
    shares = all(is_share(y) for y in plot.y)
    svg = _draw([lines[name] for name in shown], log=plot.log, shares=shares)
    across = "length in ids" if plot.x == "from_ids" else heading(plot.x)
    axes = across, ", ".join(map(heading, plot.y))
    return Curves(svg=svg, series=shown, axes=axes, hidden=len(lines) - len(shown))


_INCHES = (5.0, 2.9)
_INK, _GRID = "#0a0b0c", "#0d0e0f"
_SERIES = [f"#01020{i}" for i in range(1, MOST_SERIES + 1)]
"""Colours that stand for those of the page's style, and occur nowhere else in a drawing."""

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "omni-diffusion",  # the same lines, the same bytes
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": _GRID,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}
_FEW_POINTS = 24


def _draw(lines: Sequence[Sequence[tuple[float, float]]], *, log: bool, shares: bool) -> Markup:
    """Lines as an SVG element, to be put into HTML."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, FuncFormatter, PercentFormatter

    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.add_subplot()
        for line, colour in zip(lines, _SERIES, strict=False):
            xs, ys = zip(*sorted(line), strict=True)
            dots = "o" if len(xs) <= _FEW_POINTS else ""
            axes.plot(xs, ys, color=colour, marker=dots, markersize=4)
        if log:
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.minorticks_off()
        else:
            axes.set_ylim(bottom=min(0, axes.get_ylim()[0]) if _below_zero(lines) else 0)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        if shares and log:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y * 100:g}%"))
        elif shares:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inlined(file.getvalue())


def _below_zero(lines: Sequence[Sequence[tuple[float, float]]]) -> bool:
    return any(y < 0 for line in lines for _, y in line)


def _inlined(svg: str) -> Markup:
    """An SVG file as an element of a page, in the page's colours and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg
    )
    svg = re.sub(r"font(-family)?: [^;\"]+;?", lambda m: _font(m[0]), svg)
    for i, colour in enumerate(_SERIES, start=1):
        svg = svg.replace(colour, f"var(--s{i})")
    return Markup(svg.replace(_INK, "var(--muted)").replace(_GRID, "var(--line)"))


def _font(declaration: str) -> str:
    """The size of a font stays, its family is the page's."""
    found = re.search(r"([\d.]+)px", declaration)
    return f"font-size: {found[1]}px;" if found else ""
