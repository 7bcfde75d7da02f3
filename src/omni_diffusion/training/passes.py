"""The endless shuffled order of one source, and where in it a given amount of tokens lies.

A pass (epoch) takes the shards in an order of its own, a few at a time: a **group** of shards has
its rows shuffled together and is left when all were used. So a remote corpus is fetched shard by
shard, once a pass, and what comes next is known. Everything is arithmetic on (seed, epoch): any
group of any pass can be had without the others.

Tokens before each group are sums over whole shards, which are known from the start. To find the
sample at which a source has given N supervised tokens is therefore one division for the pass, one
search among its groups, and the shuffle of one group.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from omni_diffusion.corpus.order import permute
from omni_diffusion.training.lengths import Lengths
from omni_diffusion.training.noise import word

_KEPT_GROUPS = 4
_KEPT_EPOCHS = 3
_SUMMED_SHARDS = 16

Whole = NDArray[np.int64]


class Position(NamedTuple):
    """Just before a sample of a group of a pass, counted from 0."""

    epoch: int
    group: int
    sample: int


class Pass(NamedTuple):
    """One pass over a source. The last three have an entry more than there are groups."""

    shards: Whole
    samples: Whole
    length: Whole
    supervised: Whole


class Group(NamedTuple):
    """The samples of some shards, shuffled. Sums run from the start of the pass."""

    rows: Whole
    length: Whole
    supervised: Whole
    middle: Whole


class SourceOrder:
    """The order of one source.

    Args:
        name: of the source; part of the seed.
        lengths: its rows.
        seed: of the shuffle.
        group_shards: shards of a group.

    Attributes:
        samples: of one pass.
        length: ids of one pass, without tail pads.
        supervised: supervised tokens of one pass.
    """

    def __init__(self, name: str, lengths: Lengths, *, seed: int, group_shards: int) -> None:
        self.lengths = lengths
        self._seed = word("order", seed, name)
        self._group_shards = group_shards
        self._shard_length = _sums(lengths.length, lengths.starts)
        self._shard_supervised = _sums(lengths.supervised, lengths.starts)
        self._shard_samples = _sums(lengths.length, lengths.starts, count=True)
        self.samples = int(self._shard_samples.sum())
        self.length = int(self._shard_length.sum())
        self.supervised = int(self._shard_supervised.sum())
        self._passes: OrderedDict[int, Pass] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], Group] = OrderedDict()

    @property
    def groups(self) -> int:
        """Groups of a pass."""
        return -(-len(self._shard_samples) // self._group_shards)

    def locate(self, supervised: int) -> Position:
        """Position at which the source has given so many supervised tokens.

        A sample counts as given when half of its tokens are wanted, so what lies before the
        position differs from `supervised` by half a sample at most.
        """
        epoch, rest = divmod(supervised, self.supervised)
        group = int(np.searchsorted(self.of_pass(epoch).supervised[:-1], rest, side="right")) - 1
        middle = self.of_group(epoch, group).middle
        return Position(epoch, group, int(np.searchsorted(middle, 2 * rest, side="right")))

    def before(self, at: Position) -> tuple[int, int, int]:
        """Samples, ids and supervised tokens of all that lies before, earlier passes included."""
        in_pass, group = self.of_pass(at.epoch), self.of_group(at.epoch, at.group)
        return (
            at.epoch * self.samples + int(in_pass.samples[at.group]) + at.sample,
            at.epoch * self.length + int(group.length[at.sample]),
            at.epoch * self.supervised + int(group.supervised[at.sample]),
        )

    def estimate(self, supervised: int) -> tuple[int, int]:
        """Samples and ids before about that many supervised tokens: no group is shuffled for it."""
        epoch, rest = divmod(supervised, self.supervised)
        found = self.of_pass(epoch)
        samples, length = (
            int(np.interp(rest, found.supervised, sums)) for sums in (found.samples, found.length)
        )
        return epoch * self.samples + samples, epoch * self.length + length

    def between(self, start: Position, stop: Position) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rows and passes (int64 [n] each) of the samples from one position up to another."""
        rows, epochs = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for epoch, group in self.groups_between(start, stop):
            found = self.of_group(epoch, group).rows
            first = start.sample if (epoch, group) == start[:2] else 0
            last = stop.sample if (epoch, group) == stop[:2] else len(found)
            rows.append(found[first:last])
            epochs.append(np.full(len(rows[-1]), epoch, np.int64))
        return np.concatenate(rows), np.concatenate(epochs)

    def groups_between(self, start: Position, stop: Position) -> list[tuple[int, int]]:
        """(epoch, group) of all groups from one position to another, both included."""
        first = start.epoch * self.groups + start.group
        last = stop.epoch * self.groups + stop.group
        return [divmod(number, self.groups) for number in range(first, last + 1)]

    def shards_of(self, epoch: int, group: int) -> list[int]:
        """Which shards a group is made of, as positions in `lengths.shards`."""
        start = group * self._group_shards
        shards = self.of_pass(epoch).shards[start : start + self._group_shards]
        return [int(shard) for shard in shards]

    def of_pass(self, epoch: int) -> Pass:
        """Order of the shards of a pass, and sums before each of its groups."""
        if epoch not in self._passes:
            n = len(self._shard_samples)
            shards = permute(np.arange(n), n, self._seed, epoch)
            edges = np.arange(0, n, self._group_shards)
            sums = (
                np.concatenate([[0], np.add.reduceat(per_shard[shards], edges).cumsum()])
                for per_shard in (self._shard_samples, self._shard_length, self._shard_supervised)
            )
            _keep(self._passes, epoch, Pass(shards, *sums), _KEPT_EPOCHS)
        return self._passes[epoch]

    def of_group(self, epoch: int, group: int) -> Group:
        """Rows of a group in their order, and sums before each of them."""
        if (epoch, group) not in self._groups:
            in_pass, starts = self.of_pass(epoch), self.lengths.starts
            parts = [np.arange(starts[s], starts[s + 1]) for s in self.shards_of(epoch, group)]
            rows = np.concatenate(parts)
            rows = rows[permute(np.arange(len(rows)), len(rows), word(self._seed, group), epoch)]
            rows = rows[self.lengths.length[rows] > 0]
            length = _running(self.lengths.length[rows], in_pass.length[group])
            supervised = _running(self.lengths.supervised[rows], in_pass.supervised[group])
            made = Group(rows, length, supervised, supervised[:-1] + supervised[1:])
            _keep(self._groups, (epoch, group), made, _KEPT_GROUPS)
        self._groups.move_to_end((epoch, group))
        return self._groups[epoch, group]


def _sums(values: NDArray[Any], starts: Whole, *, count: bool = False) -> Whole:
    """Sum (or number of values above 0) of every shard.

    A few shards at a time: on values of eight bytes, `reduceat` is ten times as fast, but a copy
    of all of them in that form would not fit beside the rest.
    """
    out = np.empty(len(starts) - 1, np.int64)
    for first in range(0, len(out), _SUMMED_SHARDS):
        edges = starts[first : first + _SUMMED_SHARDS + 1]
        part = values[edges[0] : edges[-1]]
        wide = (part > 0 if count else part).astype(np.int64)
        out[first : first + len(edges) - 1] = np.add.reduceat(wide, edges[:-1] - edges[0])
    return out


def _running(values: NDArray[Any], start: np.int64) -> Whole:
    """`start`, and the sums from there after each value."""
    out = np.empty(len(values) + 1, np.int64)
    out[0] = 0
    np.cumsum(values, out=out[1:])
    return out + start


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any, most: int) -> None:
    kept[key] = value
    while len(kept) > most:
        kept.popitem(last=False)
