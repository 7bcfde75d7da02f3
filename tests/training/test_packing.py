"""Rows hold whole samples, never overflow, and are nearly full on a mix like the real one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.training.packing import pack

ROW = 64
lengths = st.lists(st.integers(1, ROW), max_size=80).map(lambda x: np.array(x, np.int64))


@given(lengths, st.integers(0, 90))
def test_every_sample_lies_in_one_row_and_no_row_overflows(lengths, rows) -> None:
    row_of, packed = pack(lengths, ROW, rows)
    loads = np.bincount(row_of, lengths, minlength=packed)
    assert len(row_of) == len(lengths) and len(loads) == packed
    assert loads.max(initial=0) <= ROW


@given(lengths, st.integers(0, 90))
def test_rows_are_opened_only_for_samples_that_fit_nowhere(lengths, rows) -> None:
    """No two rows in use could be one, and rows beyond those given are all in use."""
    row_of, packed = pack(lengths, ROW, rows)
    loads = np.sort(np.bincount(row_of, lengths, minlength=packed))
    used = loads[loads > 0]
    assert len(used) < 2 or used[0] + used[1] > ROW
    assert packed == max(rows, len(used))


@given(lengths)
def test_packing_repeats(lengths) -> None:
    first, again = pack(lengths, ROW, 5), pack(lengths.copy(), ROW, 5)
    assert np.array_equal(first[0], again[0]) and first[1] == again[1]


def test_a_mix_of_text_pictures_and_speech_fills_its_rows() -> None:
    """20-200 text ids, often a picture of 256 or 1,024 codes, often 25-400 speech codes."""
    rng, n = np.random.default_rng(0), 16_000
    mixed = rng.integers(20, 201, n) + 15
    mixed += np.where(rng.random(n) < 0.8, rng.choice([256, 1024], n), 0)
    mixed += np.where(rng.random(n) < 0.88, rng.integers(25, 401, n), 0)
    _, rows = pack(mixed, 3072, 0)
    assert mixed.sum() / (rows * 3072) > 0.99


@pytest.mark.parametrize("bad", [[0], [ROW + 1]])
def test_lengths_that_fit_no_row_are_refused(bad) -> None:
    with pytest.raises(ValueError, match="rows of 64"):
        pack(np.array(bad), ROW, 1)
