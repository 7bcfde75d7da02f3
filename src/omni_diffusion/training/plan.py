"""Which samples make up each step: a pure function of recipe, index lengths and step.

    sources -> shuffled order of each (passes) -> one stream in exact proportion (mixture)
            -> windows of equal mass -> rows, best fit (packing) -> rows shuffled -> steps

A **window** is the part of the stream that is packed together: `window_rows` rows in whole steps.
It is cut by mass, so window w begins at mass w * C whatever came before, and any step can be had by
planning its window alone. C is what fits, as a few windows drawn from all lengths show. Where a
stretch of the data packs worse than that, its window has more rows: some of its steps then get a
row or more above `rows_per_step`. Nothing is dropped, and nothing is carried over.

Ranks, threads and restarts see the same steps. The state is the step and what the plan was made of.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from omni_diffusion.corpus.order import permute
from omni_diffusion.errors import OmniError
from omni_diffusion.training.mixture import Mixture, whole_shares
from omni_diffusion.training.noise import Purpose, draws, sample_keys, uniforms, word
from omni_diffusion.training.packing import pack
from omni_diffusion.training.passes import Position, SourceOrder
from omni_diffusion.training.recipe import DataRecipe
from omni_diffusion.training.source import Source
from omni_diffusion.training.steps import Placed, StepPlan

VERSION: Final = 1
"""Changes whenever the same recipe and data would give other steps."""

_OF_THE_RECIPE: Final = (
    *("seed", "row_length", "rows_per_step", "window_rows", "shuffle_shards", "tail_pads"),
)
_PROBES: Final = 4
_MARGIN: Final = 0.998
_KEPT_WINDOWS: Final = 3


class PlanError(OmniError):
    """A plan cannot be made of this recipe and data, or a state belongs to another plan."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """Samples that were packed together.

    Attributes:
        start: where each source stood before it.
        stop: where each source stands after it.
        step: int64 [n], step of each sample within the window, ascending.
        rows: int64 [steps of a window], rows of each step.
        samples: the samples, by step and row.
    """

    start: tuple[Position, ...]
    stop: tuple[Position, ...]
    step: NDArray[np.int64]
    rows: NDArray[np.int64]
    samples: Placed


class Plan:
    """All steps of a run.

    Args:
        recipe: of the data.
        sources: the opened corpora, in the order of the recipe, without those of weight 0.

    Attributes:
        recipe: as given.
        sources: as given.
        mixture: the common stream.
        steps_per_window: steps of a window.
        identity: what the plan follows from, by name; equal for equal plans on any machine.
        digest: SHA-256 of it.

    Raises:
        PlanError: a source has nothing to train on, or samples that are longer than a row while
            the recipe says to stop.
    """

    def __init__(self, recipe: DataRecipe, sources: Sequence[Source]) -> None:
        self.recipe, self.sources = recipe, list(sources)
        weights = [recipe.sources[source.name].weight for source in sources]
        whole_shares(weights)  # first of all: are there weights
        for source in sources:
            _check_source(source, recipe)
        orders = [
            SourceOrder(s.name, s.lengths, seed=recipe.seed, group_shards=recipe.shuffle_shards)
            for s in sources
        ]
        self.mixture = Mixture(orders, weights, pad_mass=(recipe.tail_pads + 1) // 2)
        self.steps_per_window = -(-recipe.window_rows // recipe.rows_per_step)
        self._seed = word("plan", recipe.seed)
        self._words = np.array([source.word for source in sources], np.uint64)
        self._mass = self._fitting_mass()
        self._windows: OrderedDict[int, Window] = OrderedDict()
        self.identity = self._identity()
        text = json.dumps(self.identity, sort_keys=True)
        self.digest = hashlib.sha256(text.encode()).hexdigest()

    @property
    def window_rows(self) -> int:
        """Rows of a window, where its samples pack as well as expected."""
        return self.steps_per_window * self.recipe.rows_per_step

    def step(self, step: int) -> StepPlan:
        """The samples of a step, from 0 on."""
        number, within = divmod(step, self.steps_per_window)
        window = self.window(number)
        first, last = np.searchsorted(window.step, [within, within + 1])
        rows, shift = int(window.rows[within]), word(self._seed, "ratio", step)
        return StepPlan.of(window.samples, slice(first, last), step=step, rows=rows, shift=shift)

    def window(self, number: int) -> Window:
        """Everything that is packed together with a window's samples."""
        if number not in self._windows:
            self._windows[number] = self._pack(number)
            while len(self._windows) > _KEPT_WINDOWS:
                self._windows.popitem(last=False)
        return self._windows[number]

    def state(self, step: int) -> dict[str, Any]:
        """What to keep so that a run can go on at `step`: JSON, whatever the number of ranks."""
        return {"step": step, "digest": self.digest, "plan": dict(self.identity)}

    def resume(self, state: Mapping[str, Any]) -> int:
        """The step to go on with.

        Raises:
            PlanError: the state belongs to another plan; names the first difference.
        """
        if state.get("digest") != self.digest:
            theirs = state.get("plan", {})
            for name in sorted({*theirs, *self.identity}):
                was, now = theirs.get(name, "(none)"), self.identity.get(name, "(none)")
                if was != now:
                    raise PlanError(f"cannot resume: {name} was {was!r} and is {now!r}")
            raise PlanError(f"cannot resume: the plan was {state.get('digest')}, is {self.digest}")
        return int(state["step"])

    def samples_before(self, step: int) -> tuple[Position, ...]:
        """Where each source stands when the window of a step begins."""
        return self.mixture.positions(self._start_of(step // self.steps_per_window))

    def tail_pads(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Tail pads of each sample: 1 to `tail_pads`, all equally often (0 without any)."""
        if not self.recipe.tail_pads:
            return np.zeros(len(keys), np.int64)
        uniform = uniforms(draws(keys, Purpose.TAIL_PADS))
        return 1 + (uniform * self.recipe.tail_pads).astype(np.int64)

    def _start_of(self, window: int) -> int:
        return self.mixture.time_of(window * self._mass)

    def _pack(self, number: int) -> Window:
        start = self.mixture.positions(self._start_of(number))
        stop = self.mixture.positions(self._start_of(number + 1))
        parts = [o.between(a, b) for o, a, b in zip(self.mixture.orders, start, stop, strict=True)]
        source = np.repeat(np.arange(len(parts)), [len(rows) for rows, _ in parts])
        index = np.concatenate([rows for rows, _ in parts])
        epoch = np.concatenate([epochs for _, epochs in parts])
        key = sample_keys(self.recipe.seed, self._words[source], index, epoch)
        pads = self.tail_pads(key)
        ids = [s.lengths.length[rows] for s, (rows, _) in zip(self.sources, parts, strict=True)]
        length = pads + np.concatenate(ids)
        row_of, packed = pack(length, self.recipe.row_length, self.window_rows)
        step, row, rows = self._to_steps(row_of, packed, number)
        placed = Placed(
            source=source, index=index, epoch=epoch, row=row, length=length, pads=pads, key=key
        )
        # Within a row, samples stand in the order of the stream: sources, then positions.
        order = np.lexsort((np.arange(len(row)), row, step))
        return Window(
            start=start, stop=stop, step=step[order], rows=rows, samples=placed.take(order)
        )

    def _to_steps(
        self, row_of: NDArray[np.int64], packed: int, number: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Step and row of each sample, and the rows of each step.

        Packed rows are shuffled first: packing fills the first ones with the longest samples.
        """
        place = permute(np.arange(packed), packed, word(self._seed, "rows"), number)[row_of]
        step, row = np.divmod(place, self.recipe.rows_per_step)
        extra = place >= self.window_rows
        step[extra] = (place[extra] - self.window_rows) % self.steps_per_window
        more = (place[extra] - self.window_rows) // self.steps_per_window
        row[extra] = self.recipe.rows_per_step + more
        added = np.arange(self.window_rows, packed) - self.window_rows
        rows = self.recipe.rows_per_step + np.bincount(
            added % self.steps_per_window, minlength=self.steps_per_window
        )
        return step, row, rows

    def _fitting_mass(self) -> int:
        """How much a window holds: what the worst of a few windows of random samples takes."""
        room = self.window_rows * self.recipe.row_length
        rates = [
            share / order.supervised * order.samples
            for share, order in zip(self.mixture.shares, self.mixture.orders, strict=True)
        ]
        mean = self._expected_mass()
        counts = [max(1, round(room / mean * rate / sum(rates))) for rate in rates]
        worst = 0.0
        for probe in range(_PROBES):
            lengths = np.concatenate(
                [self._random_lengths(i, count, probe) for i, count in enumerate(counts)]
            )
            pads = np.arange(len(lengths)) % max(self.recipe.tail_pads, 1)
            pads += self.recipe.tail_pads > 0
            _, rows = pack(lengths + pads, self.recipe.row_length, 0)
            mass = int(lengths.sum()) + len(lengths) * ((self.recipe.tail_pads + 1) // 2)
            worst = max(worst, rows / mass)
        return int(self.window_rows / worst * _MARGIN)

    def _expected_mass(self) -> float:
        """Mean ids and pads of a sample of the mixture."""
        pad_mass = (self.recipe.tail_pads + 1) // 2
        samples = mass = 0.0
        for share, order in zip(self.mixture.shares, self.mixture.orders, strict=True):
            samples += share * order.samples / order.supervised
            mass += share * (order.length + pad_mass * order.samples) / order.supervised
        return mass / samples

    def _random_lengths(self, source: int, count: int, probe: int) -> NDArray[np.int64]:
        """Lengths of some rows of a source, drawn without regard to its order."""
        order, lengths = self.mixture.orders[source], self.sources[source].lengths.length
        if order.samples < len(lengths) // 2:
            lengths = lengths[lengths > 0]
        word_ = np.array([word(self._seed, "probe", self.sources[source].name, probe)], np.uint64)
        found = np.empty(0, np.int64)
        counter = 0
        while len(found) < count:  # rows that training does not use are drawn again
            uniform = uniforms(draws(word_, Purpose.STEP, counter + np.arange(2 * count)))
            drawn = lengths[(uniform * len(lengths)).astype(np.int64)]
            found = np.concatenate([found, drawn[drawn > 0].astype(np.int64)])
            counter += 2 * count
        return found[:count]

    def _identity(self) -> dict[str, Any]:
        recipe = self.recipe
        names = (
            "seed",
            "row_length",
            "rows_per_step",
            "window_rows",
            "shuffle_shards",
            "tail_pads",
        )
        values: dict[str, Any] = {name: getattr(recipe, name) for name in names}
        values |= {"version": VERSION, "held_out": recipe.evaluation.held_out}
        values["window_mass"] = self._mass
        for source, share in zip(self.sources, self.mixture.shares, strict=True):
            lengths = source.lengths
            used = f"{lengths.used} rows of {lengths.rows}"
            values[f"source {source.name}"] = f"{source.digest}, {used}"
            values[f"weight of {source.name}"] = share / 2**40
        return values


def _check_source(source: Source, recipe: DataRecipe) -> None:
    lengths, name = source.lengths, source.name
    where = f"source {name!r} ({source.storage.root})"
    if lengths.too_long and recipe.too_long == "stop":
        key = source.places(np.array([lengths.longest_row]))[0].key
        raise PlanError(
            f"{where}: {lengths.too_long} of {lengths.rows} samples do not fit into a row of "
            f"{recipe.row_length}; the longest, {key!r}, takes up to {lengths.longest} ids and a "
            f"tail pad. Raise data.row_length, or leave them out with data.too_long: skip"
        )
    if not lengths.used:
        why = f"{lengths.too_long} too long, {lengths.unsupervised} without an answer"
        raise PlanError(f"{where}: none of its {lengths.rows} samples can be trained on ({why})")
