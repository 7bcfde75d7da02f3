"""Texts for a page: nothing is lost to the eye, nothing commands the browser."""

from __future__ import annotations

import unicodedata
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.audit.report.text import amount, brief, cell, shortened, size, visible

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXTS)
def test_what_is_visible_holds_no_control_and_turns_nothing(text: str) -> None:
    shown = visible(text)
    assert not [c for c in shown if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not [c for c in shown if unicodedata.bidirectional(c) in turning]
    assert visible(shown) == shown


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_plain_text_stays(text: str) -> None:
    assert visible(text) == text


def test_what_scripts_and_emoji_need_stays() -> None:
    family, persian = "\U0001f469\u200d\U0001f467", "می\u200cخواهم"
    assert visible(family) == family and visible(persian) == persian
    assert visible("a\x00b\x1b\u202ec\u2028") == "a␀b␛⟨U+202E⟩c⟨U+2028⟩"


@given(TEXTS, st.integers(0, 50))
def test_short_texts_say_what_they_leave_out(text: str, most: int) -> None:
    shown, left_out = shortened(text, most)
    assert left_out == max(0, len(text) - most)
    assert shown == text[:most]
    assert "\n" not in brief(text, most)


@pytest.mark.parametrize(
    ("value", "column", "words"),
    [
        (None, "rows", "—"),
        (float("nan"), "rows", "—"),
        (True, "subset", "yes"),
        (1234567, "rows", "1,234,567"),
        (3721, "code", "3721"),
        (0.5, "token_share", "50.0%"),
        (0.0012, "wer", "0.12%"),
        (1_500_000, "tar_bytes", "1.5 MB"),
        (0.01, "hours", "36 s"),
        (2.5, "hours", "2.5 h"),
        (0.12345678, "mean", "0.1235"),
        (datetime(2026, 1, 2, 3, 4, 5, 6), "started", "2026-01-02 03:04"),
        (["a", 1], "list", "a, 1"),
        ("x" * 500, "name", "x" * 160 + "…"),
    ],
)
def test_cells(value: object, column: str, words: str) -> None:
    assert cell(value, column) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0, "0"), (9999, "9,999"), (34_219, "34.2 K"), (1.25e9, "1.25 G")]
)
def test_amounts(value: float, words: str) -> None:
    assert amount(value) == words


def test_sizes() -> None:
    assert [size(n) for n in (7, 1500, 2_340_000)] == ["7 B", "1.5 KB", "2.34 MB"]
