"""The page of a run's curves: one file that holds everything and asks nothing of a network.

Drawings are SVG by matplotlib with colours that are names of the page's style (`--s1`, ...), so
they fit its light and its dark form. They hold numbers only; every word is HTML, escaped by the
template.
"""

from __future__ import annotations

import base64
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from omni_diffusion import __version__
from omni_diffusion.errors import OmniError
from omni_diffusion.recipe import RECIPE
from omni_diffusion.training.curves import Chart, Line, charts, summary
from omni_diffusion.training.metrics_file import read_metrics

COLOURS: Final = 10
SAMPLES: Final = "samples"
_MOST_BYTES: Final = 12_000_000
"""Of pictures and sounds together; older steps are left out first."""
_WIDTH_IN, _HEIGHT_IN = 4.6, 2.5
_LEFT, _RIGHT, _BOTTOM, _TOP = 0.11, 0.985, 0.11, 0.94
_TYPES: Final = {
    **{".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"},
    **{".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".ogg": "audio/ogg"},
}
_MOST_TEXT: Final = 2000


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A chart on the page: its drawing, and for each name its colour in the legend."""

    chart: Chart
    svg: Markup
    legend: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One generated file: `picture` and `sound` are data URLs, `text` words."""

    name: str
    picture: str = ""
    sound: str = ""
    text: str = ""


def write_page(run: str | os.PathLike[str], target: str | os.PathLike[str]) -> Path:
    """Write the page of a run.

    Args:
        run: its folder.
        target: the file to write.

    Raises:
        OmniError: there are no metrics, or they are damaged.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    folder, records = Path(run), read_metrics(run)
    environment = Environment(
        loader=PackageLoader("omni_diffusion.training", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    if not records:
        raise OmniError(f"{folder}: the run has not finished a step; there is nothing to draw yet")
    recipe = folder / RECIPE
    samples, left_out = generated(folder / SAMPLES)
    text = environment.get_template("curves.html").render(
        title=folder.resolve().name,
        figures=summary(records),
        charts=[drawn(chart) for chart in charts(records)],
        samples=samples,
        left_out=left_out,
        recipe=recipe.read_text("utf-8") if recipe.is_file() else "",
        version=__version__,
        colours=COLOURS,
    )
    path = Path(target)
    path.write_text(text, encoding="utf-8")
    return path


def drawn(chart: Chart) -> Drawn:
    """Draw a chart."""
    names = list(dict.fromkeys(line.name for line in chart.lines))
    colours = dict(zip(names, _colours(len(names), ordered=chart.ordered), strict=True))
    legend = [(name, colours[name]) for name in names] if len(names) > 1 else []
    return Drawn(chart=chart, svg=Markup(_svg(chart, colours)), legend=legend)


def _colours(count: int, *, ordered: bool) -> list[str]:
    """Names of colours: `s1` ... for kinds, `t0` ... for steps of an order."""
    if ordered:
        return [f"t{round(i * (COLOURS - 1) / max(count - 1, 1))}" for i in range(count)]
    return [f"s{i % COLOURS + 1}" for i in range(count)]


def _svg(chart: Chart, colours: dict[str, str]) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    # Real colours of matplotlib stand for the page's: #0000NN is the NN-th name.
    placeholders = ["ink", "line", *dict.fromkeys(colours.values())]
    code = {name: f"#0000{number + 1:02x}" for number, name in enumerate(placeholders)}
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": chart.title,  # ids of one page must not repeat
        "axes.formatter.limits": (-3, 5),
        "font.family": "sans-serif",
        "font.size": 8,
        "axes.edgecolor": code["line"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": code["line"],
        "grid.linewidth": 0.5,
        "xtick.color": code["line"],
        "ytick.color": code["line"],
        "xtick.labelcolor": code["ink"],
        "ytick.labelcolor": code["ink"],
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN))
        figure.subplots_adjust(_LEFT, _BOTTOM, _RIGHT, _TOP)
        axes = figure.add_subplot()
        for line in chart.lines:
            axes.plot(line.steps, line.values, color=code[colours[line.name]], **_look(line, chart))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if chart.from_zero:
            highest = max(float(line.values.max()) for line in chart.lines)
            axes.set_ylim(0, 1.08 * highest or 1)
        if chart.percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _inline(out.getvalue(), {value: name for name, value in code.items()})


def _look(line: Line, chart: Chart) -> dict[str, Any]:
    """Held-out lines carry a mark at each evaluation; trained ones step back where both are."""
    if line.held_out:
        return {"linewidth": 1.3, "marker": "o", "markersize": 2.6}
    both = any(other.held_out for other in chart.lines)
    alone = len(line.steps) == 1
    return {
        "linewidth": 0.9 if both else 1.2,
        "alpha": 0.5 if both else 1.0,
        "marker": "o" if alone else None,
        "markersize": 2.6,
    }


def _inline(svg: str, names: dict[str, str]) -> str:
    """An SVG element for a page: no prologue, no metadata, no ids, colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"#0000[0-9a-f]{2}", lambda found: f"var(--{names[found[0]]})", svg)
    svg = re.sub(r"font: [^;\"]*;?", "font-size: 8px;", svg)
    svg = re.sub(r' (width|height)="[0-9.]+pt"', "", svg, count=2)
    svg = re.sub(r' id="[a-z0-9]+_[0-9]+"', "", svg)
    return re.sub(r"\s*\n\s*", "\n", svg)


def generated(folder: Path) -> tuple[list[tuple[str, list[Exhibit]]], int]:
    """What a run has generated: one entry a folder (a step), newest first; and files left out.

    Args:
        folder: holds a folder for each step, with pictures, sounds and texts in it; one that ends
            in `.new` is being made. It need not exist.
    """
    steps: list[tuple[str, list[Exhibit]]] = []
    room, left_out = _MOST_BYTES, 0
    folders = [path for path in folder.glob("*") if path.is_dir() and path.suffix != ".new"]
    for step in sorted(folders, key=_step_order, reverse=True):
        exhibits = []
        for path in sorted(step.rglob("*")):
            if path.suffix not in _TYPES and path.suffix != ".txt":
                continue
            size = path.stat().st_size
            if size > room:
                left_out += 1
                continue
            room -= size
            exhibits.append(_exhibit(path, path.relative_to(step)))
        if exhibits:
            steps.append((step.name, exhibits))
    return steps, left_out


def _exhibit(path: Path, name: Path) -> Exhibit:
    if path.suffix == ".txt":
        text = path.read_text("utf-8", errors="replace")[:_MOST_TEXT]
        return Exhibit(name=str(name), text=text)
    kind = _TYPES[path.suffix]
    url = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return Exhibit(name=str(name), **{"picture" if kind.startswith("image") else "sound": url})


def _step_order(path: Path) -> tuple[int, str]:
    digits = re.findall(r"\d+", path.name)
    return (int(digits[-1]) if digits else -1, path.name)
