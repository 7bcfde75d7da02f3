"""The samples of a step, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from omni_diffusion.training.noise import GOLDEN, Words, uniforms

Whole = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """Samples that were given a place, column by column.

    Attributes:
        source: int64 [n], position among the sources.
        index: int64 [n], row of the sample in its corpus.
        epoch: int64 [n], which pass over its source this is; -1 in evaluation.
        row: int64 [n], row of the step that it lies in.
        length: int64 [n], ids that are set aside for it, tail pads included.
        pads: int64 [n], tail pads among them.
        key: uint64 [n], names its noise.
    """

    source: Whole
    index: Whole
    epoch: Whole
    row: Whole
    length: Whole
    pads: Whole
    key: Words

    def __len__(self) -> int:
        return len(self.row)

    def columns(self, which: Any) -> dict[str, NDArray[Any]]:
        """The table's columns, some entries of each: a slice, or an array of positions."""
        return {field.name: getattr(self, field.name)[which] for field in fields(Placed)}

    def take(self, which: Any) -> Placed:
        """Some entries of the table."""
        return Placed(**self.columns(which))


@dataclass(frozen=True, kw_only=True, eq=False)
class StepPlan(Placed):
    """The samples of one step, all ranks together, in the order of their rows.

    Attributes:
        step: which one; -1, -2, ... in evaluation.
        rows: rows of the step: `rows_per_step`, or more where the data packs badly.
        time: float64 [n], in (0, 1): evenly spread over the samples of each source in the step,
            for the mask ratio.
    """

    step: int
    rows: int
    time: NDArray[np.float64]

    @classmethod
    def of(cls, placed: Placed, which: Any, *, step: int, rows: int, shift: int) -> Self:
        """A step of some entries of a table, with mask ratios spread over them."""
        columns = placed.columns(which)
        time = spread_times(columns["source"], shift)
        return cls(**columns, step=step, rows=rows, time=time)

    def of_rows(self, rows: Sequence[int]) -> Whole:
        """Positions of the samples that lie in some rows."""
        return np.flatnonzero(np.isin(self.row, rows))


def spread_times(source: Whole, shift: int) -> NDArray[np.float64]:
    """Numbers in (0, 1) for the samples of a step, evenly spread within each source.

    The n-th sample, counted source by source, gets n times the golden ratio plus `shift`, modulo
    1: any run of neighbours covers the interval evenly, and each number alone is uniform because
    the shift of every step is another.

    Args:
        source: int64 [n], of each sample.
        shift: a 64-bit number.
    """
    rank = np.empty(len(source), np.uint64)
    rank[np.argsort(source, kind="stable")] = np.arange(len(source), dtype=np.uint64)
    return uniforms(rank * np.uint64(GOLDEN) + np.uint64(shift))
