"""Drawings: proportions are right, and no word of the corpus gets into an SVG."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from omni_diffusion.audit.named import Plot
from omni_diffusion.audit.report.charts import (
    MOST_BARS,
    MOST_SERIES,
    Bars,
    Curves,
    Ranges,
    Shades,
    chart,
)

HOSTILE = "<script>$x^2$</script>"


def test_bars_are_in_proportion() -> None:
    rows = [{"name": "a", "share": 0.5, "other": None}, {"name": None, "share": 0.25, "other": 1.0}]
    drawn = chart(Plot.parse("bars x=name y=share,other"), rows)
    assert isinstance(drawn, Bars)
    assert drawn.series == ["share", "other"]
    assert drawn.groups == [
        ("a", [(0.5, "50.0%"), (0.0, "—")]),
        ("(none)", [(0.25, "25.0%"), (1.0, "1")]),
    ]


def test_bars_leave_out_columns_that_say_nothing() -> None:
    rows = [{"name": "a", "share": 0.5, "other": None}]
    drawn = chart(Plot.parse("bars x=name y=share,other"), rows)
    assert isinstance(drawn, Bars) and drawn.series == ["share"]
    assert chart(Plot.parse("bars x=name y=share"), [{"name": "a", "share": 0}]) is None
    assert chart(Plot.parse("bars x=name y=share"), []) is None
    assert chart(Plot.parse("table"), rows) is None


def test_bars_of_what_nobody_knows_are_of_samples() -> None:
    """A media corpus has no tokens, so no shares of them; but a 0 is known."""
    rows = [{"name": n, "share": float("nan"), "samples": i + 1} for i, n in enumerate("ab")]
    drawn = chart(Plot.parse("bars x=name y=share"), rows)
    assert isinstance(drawn, Bars) and drawn.series == ["samples"]
    assert [bars[0] for _, bars in drawn.groups] == [(0.5, "1"), (1.0, "2")]
    known = [row | {"share": 0.0} for row in rows]
    assert chart(Plot.parse("bars x=name y=share"), known) is None


def test_many_bars_are_counted() -> None:
    rows = [{"name": f"n{i}", "n": 1 + i} for i in range(MOST_BARS + 5)]
    drawn = chart(Plot.parse("bars x=name y=n"), rows)
    assert isinstance(drawn, Bars) and len(drawn.groups) == MOST_BARS and drawn.hidden == 5


def test_ranges_and_bins() -> None:
    row = {"name": "asr", "p05": 10, "p25": 20, "median": 50, "p75": 60, "p95": 100}
    drawn = chart(Plot.parse("bars x=name y=p05,median,p95"), [row])
    assert isinstance(drawn, Ranges)
    assert drawn.rows == [("asr", [0.1, 0.2, 0.5, 0.6, 1.0], "50 (10 to 100)")]
    bins = [{"from_ids": 0, "to_ids": 255, "n": 3}, {"from_ids": None, "to_ids": None, "n": 3}]
    drawn = chart(Plot.parse("bars x=from_ids y=n"), bins)
    assert isinstance(drawn, Bars)
    assert [label for label, _ in drawn.groups] == ["0–255", "all"]


def test_shades() -> None:
    rows = [
        {"voice": v, "language": x, "samples": n}
        for v, x, n in (("a", "en", 4), ("a", "zh", 0), ("b", "en", 2), ("b", "zh", 1))
    ]
    drawn = chart(Plot.parse("heatmap x=language y=samples by=voice"), rows)
    assert isinstance(drawn, Shades)
    assert drawn.columns == ["en", "zh"]
    assert drawn.rows == [("a", [(1.0, "4"), (0.0, "0")]), ("b", [(0.5, "2"), (0.25, "1")])]


@pytest.mark.parametrize("log", ["", " log"])
def test_curves_hold_numbers_and_nothing_of_the_corpus(log: str) -> None:
    rows = [
        {"rank": 2**i, "share": 0.5 / 2**i, "book": book}
        for i in range(10)
        for book in (HOSTILE, "b")
    ]
    drawn = chart(Plot.parse(f"line x=rank y=share by=book{log}"), rows)
    assert isinstance(drawn, Curves)
    assert drawn.series == [HOSTILE, "b"]
    tree = ElementTree.fromstring(re.sub(r"xlink:", "", str(drawn.svg)))
    words = [e.text for e in tree.iter() if e.tag.endswith("text")]
    assert words and all(re.fullmatch(r"[-−\d.,]+[%kMGTmµn]?", str(word)) for word in words)
    assert len(set(words)) == len(words) or not log
    assert "var(--s1)" in drawn.svg and "var(--s2)" in drawn.svg
    assert not re.search(r"#[0-9a-f]{6}\b", str(drawn.svg).replace("#000000", ""))
    assert drawn.svg == chart(Plot.parse(f"line x=rank y=share by=book{log}"), rows).svg


def test_curves_have_as_many_lines_as_colours() -> None:
    rows = [{"x": x, "y": i, "by": f"b{i}"} for i in range(MOST_SERIES + 3) for x in (0, 1)]
    drawn = chart(Plot.parse("line x=x y=y by=by"), rows)
    assert isinstance(drawn, Curves)
    assert drawn.series == [f"b{i}" for i in range(3, MOST_SERIES + 3)] and drawn.hidden == 3


def test_a_curve_without_numbers_is_not_drawn() -> None:
    assert chart(Plot.parse("line x=x y=y"), [{"x": None, "y": 1}]) is None
