"""What docs/training.md says of this trainer is shown by tests that exist, and by the last ones."""

import re
from pathlib import Path

import numpy as np

from omni_diffusion.training.opening import open_data
from training_fixtures import make_recipe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/training.md").read_text()


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(?:tests/)?([\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 30
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"


def test_the_page_has_all_sixteen_departures_and_every_row_a_test() -> None:
    rows = re.findall(r"^\| (\d+) \|.*$", PAGE, re.MULTILINE)
    assert rows == [str(n) for n in range(1, 17)]
    for line in PAGE.splitlines():
        if re.match(r"\| \d+ \|", line):
            assert "::test_" in line, line


def test_links_of_the_page_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
    anchors = re.findall(r"\]\(#([^)]+)\)", PAGE)
    titles = [t.lower().replace(" ", "-") for t in re.findall(r"^## (.*)$", PAGE, re.MULTILINE)]
    assert set(anchors) <= set(titles)


def test_tail_pads_are_as_many_in_every_run_and_equally_often(corpora) -> None:
    """Named by seed, sample and pass: a restart, another rank and another order draw the same."""
    data = open_data(make_recipe(corpora))
    keys = np.arange(64_000).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    pads = data.plan.tail_pads(keys)
    assert set(pads.tolist()) == set(range(1, 17))
    counts = np.bincount(pads)[1:]
    assert (abs(counts - 4000) < 5 * np.sqrt(4000)).all()
    assert np.array_equal(data.plan.tail_pads(keys[::-1])[::-1], pads)
    again = open_data(make_recipe(corpora)).plan
    for step in (0, 9):
        one, other = data.plan.step(step), again.step(step)
        assert np.array_equal(one.pads, other.pads) and set(one.pads) <= set(range(1, 17))
