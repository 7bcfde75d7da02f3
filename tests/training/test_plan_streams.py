"""Laws of order and mixture: exact proportion at any time, every sample once a pass."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.errors import OmniError
from omni_diffusion.training.lengths import Lengths
from omni_diffusion.training.mixture import Mixture, whole_shares
from omni_diffusion.training.passes import Position, SourceOrder


def lengths_of(rows: list[tuple[int, int]], shard_sizes: list[int]) -> Lengths:
    """An index of rows (length, supervised) that was never on a disk."""
    length = np.array([a for a, _ in rows], np.uint16)
    starts = np.concatenate([[0], np.cumsum(shard_sizes)])
    return Lengths(
        length=length,
        supervised=np.array([b for _, b in rows], np.uint16),
        task=np.zeros(len(rows), np.uint8),
        tasks=("text",),
        shards=np.arange(len(shard_sizes), dtype=np.int32),
        starts=starts.astype(np.int64),
        held_out=np.empty(0, np.int64),
        held_out_length=np.empty(0, np.uint16),
        too_long=0,
        longest=int(length.max()),
        longest_row=0,
        unsupervised=0,
        features=0,
    )


@st.composite
def indexes(draw: st.DrawFn) -> Lengths:
    """A few shards of rows, some of them unused (length 0), one of them used."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    rows = []
    for _ in range(sum(sizes)):
        length = draw(st.sampled_from([0, 5, 17, 60]))
        rows.append((length, length and draw(st.integers(1, length))))
    rows[draw(st.integers(0, len(rows) - 1))] = (9, 4)
    return lengths_of(rows, sizes)


@st.composite
def orders(draw: st.DrawFn) -> SourceOrder:
    seed, shards = draw(st.integers(0, 5)), draw(st.integers(1, 4))
    return SourceOrder("a", draw(indexes()), seed=seed, group_shards=shards)


@given(orders(), st.integers(0, 3))
def test_a_pass_gives_every_used_row_once(order: SourceOrder, epoch: int) -> None:
    rows, epochs = order.between(Position(epoch, 0, 0), Position(epoch + 1, 0, 0))
    assert np.array_equal(np.sort(rows), np.flatnonzero(order.lengths.length))
    assert set(epochs.tolist()) == {epoch}


@given(orders(), st.integers(0, 3000))
def test_a_source_stands_within_half_a_sample_of_what_it_owes(order, owed) -> None:
    _, _, given_ = order.before(order.locate(owed))
    assert 2 * abs(given_ - owed) <= order.lengths.supervised.max()


@given(orders(), st.integers(0, 3000), st.integers(0, 3000))
def test_sums_before_positions_are_those_of_the_samples_between_them(order, one, other) -> None:
    start, stop = sorted((order.locate(one), order.locate(other)))
    rows, _ = order.between(start, stop)
    lengths = order.lengths
    between = (len(rows), lengths.length[rows].sum(), lengths.supervised[rows].sum())
    before, after = order.before(start), order.before(stop)
    assert tuple(b - a for a, b in zip(before, after, strict=True)) == between


@given(indexes(), st.integers(0, 3000), st.lists(st.integers(0, 3000), max_size=9))
def test_the_order_does_not_depend_on_what_was_asked_before(index, owed, others) -> None:
    fresh, used = (SourceOrder("a", index, seed=0, group_shards=2) for _ in range(2))
    for other in others:
        used.locate(other)
    at = fresh.locate(owed)
    assert at == used.locate(owed)
    stop = Position(at.epoch + 1, 0, 0)
    assert np.array_equal(fresh.between(at, stop)[0], used.between(at, stop)[0])


@given(st.lists(indexes(), min_size=1, max_size=4), st.data())
def test_any_prefix_is_within_a_sample_of_the_weights(sources, data) -> None:
    """Not on average: at any time, whatever the lengths, in supervised tokens."""
    weights = [data.draw(st.floats(0.01, 5)) for _ in sources]
    mixture = Mixture(
        [SourceOrder(str(i), s, seed=1, group_shards=2) for i, s in enumerate(sources)], weights
    )
    time = data.draw(st.integers(0, 5000))
    given_ = [
        o.before(at)[2] for o, at in zip(mixture.orders, mixture.positions(time), strict=True)
    ]
    for tokens, weight, source in zip(given_, weights, sources, strict=True):
        owed = time * weight / sum(weights)
        assert abs(tokens - owed) <= source.supervised.max() / 2 + 1


@given(st.lists(indexes(), min_size=1, max_size=3), st.integers(1, 20_000), st.integers(0, 8))
def test_time_of_is_the_first_time_with_that_mass(sources, mass, pad_mass) -> None:
    made = [SourceOrder(str(i), s, seed=1, group_shards=2) for i, s in enumerate(sources)]
    mixture = Mixture(made, [1.0 + i for i in range(len(made))], pad_mass=pad_mass)
    time = mixture.time_of(mass)
    assert mixture.mass(time) >= mass > mixture.mass(time - 1)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=9).filter(any))
def test_shares_are_the_weights_and_sum_to_one(weights) -> None:
    shares = whole_shares(weights)
    assert sum(shares) == 2**40
    assert np.allclose(np.array(shares) / 2**40, np.array(weights) / sum(weights), atol=1e-11)


def test_weights_that_sum_to_nothing_are_refused() -> None:
    with pytest.raises(OmniError, match="sum to 0"):
        whole_shares([0.0, 0.0])


def test_the_order_is_the_same_for_ever() -> None:
    """Pinned: a change of these numbers is a change of everybody's training order."""
    rows = [(10 + i % 7, 5) for i in range(12)]
    order = SourceOrder("a", lengths_of(rows, [4, 4, 4]), seed=0, group_shards=2)
    assert order.between(Position(0, 0, 0), Position(1, 0, 0))[0].tolist() == PINNED


PINNED = [7, 6, 3, 4, 0, 5, 2, 1, 8, 11, 9, 10]
