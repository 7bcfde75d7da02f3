"""Saved inputs are still read or refused; a short pass of damaged ones. See `fuzzing.py`."""

from __future__ import annotations

import pytest
from fuzzing import TARGETS, attempt, damaged, saved

RUNS = 150


@pytest.mark.parametrize("target", TARGETS)
def test_saved_inputs(target: str) -> None:
    assert saved(target)
    for data in saved(target):
        if error := attempt(target, data):
            raise error


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_inputs(target: str) -> None:
    """Other runs than a user's, who begins at 0."""
    inputs = saved(target)
    for run in range(1_000_000, 1_000_000 + RUNS):
        data = damaged(inputs, target, run)
        if error := attempt(target, data):
            raise error


def test_an_error_that_is_not_ours_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> None:
        data.decode("ascii")

    monkeypatch.setitem(TARGETS, "record", broken)
    assert isinstance(attempt("record", b"\xff"), UnicodeDecodeError)
    assert attempt("record", b"a") is None


def test_runs_are_the_same_everywhere() -> None:
    inputs = [b"abc", b"defgh" * 50]
    assert [damaged(inputs, "t", n) for n in range(5)] == [
        damaged(inputs, "t", n) for n in range(5)
    ]
    assert len({damaged(inputs, "t", n) for n in range(50)}) > 40
