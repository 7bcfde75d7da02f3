"""Estimators have exactly the expectation they promise; noise belongs to samples, not batches."""

from dataclasses import dataclass, field, replace
from itertools import permutations, product
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.training.masking import (
    Supervised,
    mask,
    mask_exact_count,
    mask_per_sample,
    mask_per_token,
)
from omni_diffusion.training.noise import Purpose, sample_keys, uniforms, word
from omni_diffusion.training.recipe import MaskingRecipe
from omni_diffusion.training.steps import spread_times

PRESETS = ["low-variance", "paper", "published-code"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dictated(Supervised):
    """Positions whose random draws a test chooses: numbers in (0, 1) by purpose."""

    tokens: np.ndarray
    thresholds: np.ndarray | None = None
    samples: dict[Purpose, np.ndarray] = field(default_factory=dict)

    def words(self, purpose):
        chosen = {Purpose.TOKENS: self.tokens, Purpose.THRESHOLDS: self.thresholds}[purpose]
        return (chosen * 2.0**64).astype(np.uint64)

    def of_samples(self, purpose):
        return self.samples[purpose]


def dictated(tokens: np.ndarray, time: np.ndarray, pads: int = 0, **samples) -> Dictated:
    """Samples of equal length; tokens [n, L], of which the last `pads` are tail pads."""
    n, length = tokens.shape
    return Dictated(
        owner=np.repeat(np.arange(n), length),
        place=np.tile(np.arange(length), n),
        tail=np.tile(np.arange(length) >= length - pads, n),
        key=np.zeros(n, np.uint64),
        time=time,
        tokens=tokens.reshape(-1),
        samples={Purpose[name.upper()]: values for name, values in samples.items()},
    )


def expected_weights(length: int, inverse: bool) -> np.ndarray:
    """E[weight; exactly these k positions hidden], by k: the integral over t of the definition.

    With t uniform and positions independent, k given ones of L are hidden with probability
    t^k (1-t)^(L-k); times 1/t where the loss is divided by the ratio.
    """
    k, n = np.arange(1, length + 1), length
    power = k - inverse
    total = n + 1 - inverse
    return np.array(
        [factorial(p) * factorial(n - i) / factorial(total) for p, i in zip(power, k, strict=True)]
    )


def by_pattern(done, probability: np.ndarray, length: int) -> np.ndarray:
    """Sum of probability x weight of a hidden position, for each pattern of hidden positions."""
    masked = done.masked.reshape(-1, length)
    weight = done.weight.reshape(-1, length)
    assert (weight[~masked] == 0).all()
    value = weight.max(axis=1)
    assert np.array_equal(weight[masked], np.broadcast_to(value[:, None], masked.shape)[masked])
    pattern = masked @ (1 << np.arange(length))
    return np.bincount(pattern, probability * value, minlength=1 << length)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("length", range(1, 9))
def test_exact_counts_have_the_expectation_of_the_definition(length, inverse) -> None:
    """By enumeration of every order of the draws and every count: no sampling, no tolerance but
    that of doubles. Equal for every pattern, so equal for any loss whatever."""
    orders = np.array(list(permutations(range(length))))
    tokens = (np.tile(orders, (length, 1)) + 0.5) / length
    time = (np.repeat(np.arange(length), len(orders)) + 0.5) / length
    positions = dictated(tokens, time, tail_count=np.full(len(time), 0.5))
    done = mask_exact_count(positions, 0.6, inverse=inverse)
    found = by_pattern(done, np.full(len(time), 1 / len(time)), length)
    check(found, length, inverse)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("length", range(1, 9))
def test_one_ratio_a_sample_has_it_too(length, inverse) -> None:
    """Patterns enumerated, the ratio integrated with a rule that is exact for these powers."""
    nodes, parts = np.polynomial.legendre.leggauss(length + 1)
    ratio, patterns = (nodes + 1) / 2, np.array(list(product([True, False], repeat=length)))
    t = np.repeat(ratio, len(patterns))
    hidden = np.tile(patterns, (len(ratio), 1))
    probability = np.where(hidden, t[:, None], 1 - t[:, None]).prod(axis=1)
    probability *= np.repeat(parts / 2, len(patterns))
    tokens = np.where(hidden, t[:, None] / 2, (1 + t[:, None]) / 2)
    done = mask_per_sample(dictated(tokens, t, ratio=t), 0.6, inverse=inverse)
    assert np.array_equal(done.masked, hidden.reshape(-1))
    check(by_pattern(done, probability, length), length, inverse)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("length", range(1, 9))
def test_the_published_code_hides_tokens_one_by_one(length, inverse) -> None:
    """Every pattern with every choice of thresholds at the nodes of a rule that is exact for them.

    Each token is hidden with the mean of t' = 0.999 t + 0.001, whatever the others are; divided by
    its own threshold it counts 1 on average, and the others' probabilities stay.
    """
    nodes, parts = np.polynomial.legendre.leggauss(2)
    node, hidden = (
        np.array(list(product(choice, repeat=length))) for choice in ([0, 1], [True, False])
    )
    node, hidden = np.repeat(node, len(hidden), axis=0), np.tile(hidden, (len(node), 1))
    t = (nodes[node] + 1) / 2
    threshold = 0.999 * t + 0.001
    probability = (np.where(hidden, threshold, 1 - threshold) * parts[node] / 2).prod(axis=1)
    tokens = np.where(hidden, threshold / 2, (1 + threshold) / 2)
    dictating = dictated(tokens, t[:, 0])
    done = mask_per_token(replace(dictating, thresholds=t.reshape(-1)), gamma=0.6, inverse=inverse)
    assert np.array_equal(done.masked, hidden.reshape(-1))
    pattern = hidden @ (1 << np.arange(length))
    weight = done.weight.reshape(-1, length)
    for position in range(length):
        found = np.bincount(pattern, probability * weight[:, position], minlength=1 << length)
        for bits in range(1 << length):
            others = (bits & ~(1 << position)).bit_count()
            one = (1.0 if inverse else 0.5005) if bits >> position & 1 else 0.0
            wanted = one * 0.5005**others * 0.4995 ** (length - 1 - others)
            assert found[bits] == pytest.approx(wanted, rel=1e-12)


def check(found: np.ndarray, length: int, inverse: bool) -> None:
    wanted = expected_weights(length, inverse)
    for pattern in range(1, 1 << length):
        assert found[pattern] == pytest.approx(wanted[pattern.bit_count() - 1], rel=1e-12)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_tail_pads_count_gamma_times_as_much_as_content(gamma, inverse) -> None:
    length, pads, grid = 4, 3, 2000
    rounding = (np.tile(np.arange(grid), length) + 0.5) / grid
    time = np.repeat((np.arange(length) + 0.5) / length, grid)
    tokens = np.tile((np.arange(length + pads) + 0.5) / 8, (len(time), 1))
    positions = dictated(tokens, time, pads, tail_count=rounding)
    done = mask_exact_count(positions, gamma, inverse=inverse)
    weight = done.weight.reshape(len(time), -1)
    content, tail = weight[:, :length].sum(1).mean(), weight[:, length:].sum(1).mean()
    assert content == pytest.approx(length * (1 if inverse else 0.5))
    assert tail == pytest.approx(gamma * pads * (1 if inverse else 0.5), abs=2e-3)


def sampled(n: int, length: int, seed: int = 0, pads: int = 0) -> Supervised:
    """Samples of equal length with real noise; the last `pads` positions are tail pads."""
    size, one = length + pads, np.zeros(n, np.int64)
    return Supervised(
        owner=np.repeat(np.arange(n), size),
        place=np.tile(np.arange(size), n),
        tail=np.tile(np.arange(size) >= length, n),
        key=sample_keys(seed, one.astype(np.uint64), np.arange(n), one),
        time=spread_times(one, word(seed)),
    )


@given(st.integers(1, 30), st.data(), st.sampled_from(PRESETS), st.booleans())
def test_a_sample_s_mask_does_not_depend_on_its_batch(n, data, preset, inverse) -> None:
    recipe = MaskingRecipe(preset=preset, weighting="inverse" if inverse else "none")
    size = data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    owner = np.repeat(np.arange(n), size)
    place = np.concatenate([np.arange(s) for s in size]).astype(np.int64)
    keys = sample_keys(0, np.zeros(n, np.uint64), np.arange(n), np.zeros(n))
    whole = Supervised(
        owner=owner, place=place, tail=place > 6, key=keys, time=spread_times(np.zeros(n), 5)
    )
    some = np.sort(data.draw(st.lists(st.integers(0, n - 1), unique=True).map(np.array)))
    some = some.astype(np.int64)
    part = np.isin(owner, some)
    alone = Supervised(
        owner=np.searchsorted(some, owner[part]),
        place=place[part],
        tail=whole.tail[part],
        key=keys[some],
        time=whole.time[some],
    )
    one, other = mask(whole, recipe), mask(alone, recipe)
    assert np.array_equal(one.masked[part], other.masked)
    assert np.array_equal(one.weight[part], other.weight)
    assert np.array_equal(one.ratio[some], other.ratio)


@given(st.integers(1, 60), st.integers(0, 9))
def test_the_number_of_hidden_tokens_is_exactly_the_ratio(length, seed) -> None:
    positions = sampled(20, length, seed)
    done = mask_exact_count(positions, 0.6, inverse=False)
    hidden = done.masked.reshape(20, length).sum(axis=1)
    assert hidden.min() >= 1 and np.allclose(hidden, done.ratio * length)


def ks_distance(values: np.ndarray) -> float:
    """Largest difference to the uniform distribution on (0, 1)."""
    ordered, n = np.sort(values), len(values)
    return float(
        max(
            np.abs(ordered - np.arange(n) / n).max(),
            np.abs(np.arange(1, n + 1) / n - ordered).max(),
        )
    )


@pytest.mark.parametrize("preset", ["low-variance", "paper"])
def test_mask_ratios_are_uniform(preset) -> None:
    """Not half of every answer, as in the published code: sampling begins with all hidden."""
    ratios = [
        mask(sampled(40, 400, seed), MaskingRecipe(preset=preset)).ratio for seed in range(50)
    ]
    limit = 1.63 / 2000**0.5  # Kolmogorov-Smirnov at one percent
    assert ks_distance(np.concatenate(ratios)) < limit + 1 / 400


def test_the_published_code_hides_half_of_every_answer() -> None:
    done = mask(sampled(300, 256, pads=16), MaskingRecipe(preset="published-code"))
    assert abs(done.ratio.mean() - 0.5005) < 0.003 and done.ratio.min() > 0.38
    pads = done.masked.reshape(300, -1)[:, 256:].mean()
    assert abs(pads - 0.3003) < 0.02


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 2**64 - 1))
def test_times_of_a_step_are_spread_within_every_source(counts, shift) -> None:
    source = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    times = spread_times(source, shift)
    for number, count in enumerate(counts):
        ordered = np.sort(times[source == number])
        gaps = np.diff(np.append(ordered, ordered[0] + 1))
        assert gaps.max() <= 2.7 / count


def test_one_time_is_uniform_over_steps() -> None:
    first = [spread_times(np.zeros(3, np.int64), int(w)) for w in _shifts(4000)]
    assert all(ks_distance(np.array(first)[:, i]) < 1.63 / 4000**0.5 for i in range(3))


def _shifts(n: int) -> np.ndarray:
    zeros = np.zeros(n, np.int64)
    return sample_keys(3, zeros.astype(np.uint64), np.arange(n), zeros)


def test_noise_of_samples_epochs_and_purposes_is_unrelated() -> None:
    n = 4000
    zeros, rows = np.zeros(n, np.int64), np.arange(n)
    base = sampled(n, 1).key
    others = [sample_keys(0, zeros.astype(np.uint64), rows, zeros + 1)]
    others += [sample_keys(1, zeros.astype(np.uint64), rows, zeros), np.roll(base, 1)]
    others += [sample_keys(0, zeros.astype(np.uint64) + np.uint64(1), rows, zeros)]
    values = [uniforms(keys) for keys in (base, *others)]
    assert all(ks_distance(v) < 1.63 / n**0.5 for v in values)
    assert all(abs(np.corrcoef(values[0], v)[0, 1]) < 4 / n**0.5 for v in values[1:])


def test_the_default_varies_less_than_independent_masks() -> None:
    """The variance of a step's total for a loss that is a fixed number a token."""
    loss = np.linspace(0.2, 2, 24)

    def variance(estimator) -> float:
        totals = []
        for seed in range(400):
            done = estimator(sampled(8, 24, seed), 0.6, inverse=True)
            totals.append((done.weight.reshape(8, 24) @ loss).sum())
        return float(np.var(totals))

    assert variance(mask_exact_count) < 0.3 * variance(mask_per_sample)


def test_masks_are_the_same_for_ever() -> None:
    """Pinned: a change of these numbers changes everybody's noise."""
    done = [m(sampled(3, 8), 0.6, inverse=False) for m in ESTIMATORS]
    assert ["".join(map(str, d.masked.astype(int))) for d in done] == PINNED


ESTIMATORS = (mask_exact_count, mask_per_sample, mask_per_token)
PINNED = ["000100001101011101000110", "100100000000001011110110", "100100011101001111000101"]
