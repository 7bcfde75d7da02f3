"""Several sources in exact proportion, without a list of what came before.

Time counts supervised tokens of all sources together. By time T, source s with share w has given
w T of them, as exactly as whole samples allow: half a sample off at most, at any T, whatever the
lengths of its samples are. Where each source stands at T is found without the time before
(`passes.SourceOrder.locate`), so any stretch of the stream can be had alone.

The stream is cut by **mass** (ids and expected tail pads), because a window of rows holds a fixed
amount of it; `time_of` inverts mass over time. Integers throughout: no rounding differs between
machines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from omni_diffusion.errors import OmniError
from omni_diffusion.training.passes import Position, SourceOrder

_SHARE_BITS: Final = 40
_FIRST_STEP: Final = 4096


class Mixture:
    """The common stream of several sources.

    Args:
        orders: one a source.
        weights: relative parts of the supervised tokens, each above 0.
        pad_mass: what a sample weighs beside its ids.

    Attributes:
        orders: as given.
        shares: the weights as whole parts of 2^40.
    """

    def __init__(
        self, orders: Sequence[SourceOrder], weights: Sequence[float], *, pad_mass: int = 0
    ) -> None:
        self.orders = list(orders)
        self.shares = whole_shares(weights)
        self._pad_mass = pad_mass
        self._mass_per_time = sum(
            share / 2**_SHARE_BITS * (order.length + pad_mass * order.samples) / order.supervised
            for order, share in zip(self.orders, self.shares, strict=True)
        )
        self.positions = lru_cache(maxsize=256)(self._positions)
        self.time_of = lru_cache(maxsize=256)(self._time_of)

    def supervised(self, time: int) -> list[int]:
        """Supervised tokens that each source owes by a time."""
        return [time * share >> _SHARE_BITS for share in self.shares]

    def _positions(self, time: int) -> tuple[Position, ...]:
        """Where each source stands at a time."""
        owed = self.supervised(time)
        return tuple(order.locate(n) for order, n in zip(self.orders, owed, strict=True))

    def mass(self, time: int) -> int:
        """Ids, and the pads of so many samples, that all sources have given by a time."""
        total = 0
        for order, at in zip(self.orders, self.positions(time), strict=True):
            samples, length, _ = order.before(at)
            total += length + self._pad_mass * samples
        return total

    def _estimate(self, time: int) -> int:
        """About the mass at a time, from sums over groups alone; it never falls with time."""
        found = [o.estimate(n) for o, n in zip(self.orders, self.supervised(time), strict=True)]
        return sum(length + self._pad_mass * samples for samples, length in found)

    def _time_of(self, mass: int) -> int:
        """The earliest time at which so much has been given."""
        if mass <= 0:
            return 0
        guess = int(mass / self._mass_per_time)
        about = _first(self._estimate, mass, guess, max(1, guess >> 10))
        return _first(self.mass, mass, about, _FIRST_STEP)


def whole_shares(weights: Sequence[float]) -> list[int]:
    """Weights as whole parts of 2^40: largest remainders get what rounding down leaves.

    Raises:
        OmniError: the weights sum to nothing.
    """
    total = sum(weights)
    if not total > 0:
        raise OmniError(f"weights of the sources sum to {total:g}: there is nothing to train on")
    exact = [weight / total * 2**_SHARE_BITS for weight in weights]
    shares = [int(part) for part in exact]
    missing = 2**_SHARE_BITS - sum(shares)
    for i in sorted(range(len(exact)), key=lambda i: shares[i] - exact[i])[: max(missing, 0)]:
        shares[i] += 1
    return shares


def _first(function: Callable[[int], int], wanted: int, guess: int, step: int) -> int:
    """The smallest argument at which a rising function reaches a value, searched from a guess."""
    low, high = guess, guess
    while low > 0 and function(low) >= wanted:
        high, low, step = low, max(0, low - step), step * 2
    while function(high) < wanted:
        low, high, step = high, high + step, step * 2
    while high - low > 1:
        middle = (low + high) // 2
        if function(middle) >= wanted:
            high = middle
        else:
            low = middle
    return high
