"""When a run must not go on: a loss or gradient that is no number, or a loss out of all proportion.

It stops before the step is applied, so the last checkpoint knows nothing of it, and names the
samples that had most to do with it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median

import numpy as np
from torch import Tensor

from omni_diffusion.training.batch import Batch
from omni_diffusion.training.train_recipe import GuardRecipe

Scored = tuple[Batch, Tensor, Tensor]
"""A batch, the places of its targets in its flattened rows, and their losses."""

_SHOWN = 8
_SMALL = 1.0
"""In nats a token: where a model knows its data by heart, small losses jump by any factor."""


class Guard:
    """Remembers the last losses.

    Attributes:
        losses: the last ones, oldest first; part of a run's state.
    """

    def __init__(self, recipe: GuardRecipe, losses: Iterable[float] = ()) -> None:
        self._recipe = recipe
        self.losses = deque(losses, maxlen=recipe.window)

    def fault(self, loss: float, gradient_norm: float) -> str | None:
        """What is wrong with a step, if anything; otherwise its loss is remembered."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(gradient_norm):
            return f"the loss is {loss:.4g} but the norm of its gradient is {gradient_norm}"
        usual = median(self.losses) if len(self.losses) == self._recipe.window else math.inf
        spike = self._recipe.spike
        if spike is not None and loss > max(spike * usual, _SMALL):
            return (
                f"the loss is {loss:.4g}, {loss / usual:.3g} times the median of the last "
                f"{len(self.losses)} (run.guard.spike is {spike:g}; more, or null, lets it pass)"
            )
        self.losses.append(loss)
        return None


def suspects(parts: Sequence[Scored], sources: Sequence[str]) -> list[tuple[float, str]]:
    """Samples with their mean loss: those without a finite one first, then the largest."""
    found = []
    for batch, places, losses in parts:
        owner = owners(batch)[places.cpu().numpy()]
        values, samples = losses.detach().double().cpu().numpy(), batch.samples
        count = np.bincount(owner, minlength=len(samples))
        total = np.zeros(len(samples))
        np.add.at(total, owner, values)
        for i in np.flatnonzero(count).tolist():
            name = f"{sources[samples.source[i]]}/{samples.keys[i]} (row {samples.index[i]})"
            found.append((float(total[i] / count[i]), name))
    found.sort(key=lambda pair: (math.isfinite(pair[0]), -pair[0] if pair[0] == pair[0] else 0))
    bad = [pair for pair in found if not math.isfinite(pair[0])]
    return (bad or found)[:_SHOWN]


def owners(batch: Batch) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Sample of each position of the flattened rows, int64 [R L]; -1 in padding."""
    found = np.full(batch.ids.size, -1, np.int64)
    starts = batch.samples.row * batch.ids.shape[1] + batch.samples.start
    ends = starts + batch.samples.length
    for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        found[start:end] = i
    return found
