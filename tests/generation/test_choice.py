"""Cutting, penalising and ordering, each against its definition."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from omni_diffusion.generation import orders, penalties
from omni_diffusion.generation.candidates import choose, find_candidates

SEEDS = st.integers(0, 1000)


def logits_of(seed: int, rows: int = 6, columns: int = 30) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 3


def cut_by_definition(logits: Tensor, top_k: int | None, top_p: float) -> Tensor:
    """Probabilities after top-p on all, then top-k, over the whole vocabulary."""
    kept = torch.zeros_like(logits)
    for row, scores in enumerate(logits):
        order = scores.argsort(descending=True)
        probabilities = scores.softmax(0)
        total = 0.0
        for count, column in enumerate(order.tolist()):
            if (count and total > top_p) or (top_k and count >= top_k):
                break
            kept[row, column] = probabilities[column]
            total += float(probabilities[column])
    return kept / kept.sum(1, keepdim=True)


@given(SEEDS, st.sampled_from([None, 1, 5, 30, 99]), st.sampled_from([1.0, 0.9, 0.3]))
def test_cutting_the_likeliest_equals_sorting_everything(seed, top_k, top_p):
    logits = logits_of(seed)
    found = find_candidates(logits, 100 + torch.arange(30), 0.0, top_k, top_p)
    probabilities = torch.zeros_like(logits)
    probabilities.scatter_(1, found.ids - 100, found.scores.softmax(1))
    torch.testing.assert_close(probabilities, cut_by_definition(logits, top_k, top_p))


def test_draws_follow_the_probabilities():
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    uniform = (torch.arange(1000) + 0.5) / 1000
    drawn = choose(probabilities.expand(1000, -1), uniform)
    assert torch.bincount(drawn, minlength=6).tolist() == [0, 500, 0, 300, 200, 0]
    ends = choose(probabilities.expand(2, -1), torch.tensor([0.0, 1 - 2**-24]))
    assert ends.tolist() == [1, 4]


@given(SEEDS)
def test_confidences_are_what_their_names_say(seed):
    probabilities = logits_of(seed).softmax(1)
    best = probabilities.sort(1, descending=True).values
    chosen = choose(probabilities, None)
    found = {
        name: orders.confidence(name, probabilities, chosen)
        for name in ("confidence", "margin", "entropy")
    }
    torch.testing.assert_close(found["confidence"], best[:, 0])
    torch.testing.assert_close(found["margin"], best[:, 0] - best[:, 1])
    entropy = torch.distributions.Categorical(probabilities).entropy()
    torch.testing.assert_close(found["entropy"], -entropy, rtol=1e-5, atol=1e-6)


def test_noise_on_the_order_vanishes_with_its_temperature():
    confidences = torch.randn(20, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(20, generator=torch.Generator().manual_seed(1))
    surest = set(orders.surest(confidences, 5, 0.0, None).tolist())
    assert set(orders.surest(confidences, 5, 1e-4, uniform).tolist()) == surest
    assert set(orders.surest(confidences, 5, 100.0, uniform).tolist()) != surest


@given(hidden=st.integers(1, 300), steps=st.integers(1, 64))
def test_a_schedule_keeps_everything_and_something_each_step(hidden, steps):
    times = orders.schedule(min(steps, hidden), 1e-3)
    left = hidden
    for step in range(len(times) - 1):
        kept = orders.kept_count(left, times, step) if left else 0
        assert kept >= (left > 0)
        left -= kept
    assert left == 0


@given(st.integers(1, 300), st.integers(1, 50), st.integers(1, 300))
def test_blocks_never_get_more_steps_than_there_are(length, block, steps):
    blocks = [min(block, length - at) for at in range(0, length, block)]
    shares = [orders.steps_of_block(b, length, steps) for b in blocks]
    assert all(share >= 1 for share in shares)
    assert sum(shares) <= max(steps, 2 * len(blocks)) + len(blocks)


def test_penalties_make_ids_less_likely_whatever_their_sign():
    scores = torch.tensor([[2.0, -2.0, 0.0, -torch.inf]])
    assert penalties.penalise(scores, torch.tensor(2.0)).tolist() == [[1.0, -4.0, 0.0, -torch.inf]]


def test_only_ids_of_the_same_answer_are_repetitions():
    seen = torch.tensor([[True, False, False], [False, False, True]])
    ids = torch.tensor([[0, 2], [0, 2]])
    factors = penalties.repetition_factors(seen, torch.tensor([0, 1]), ids, 1.5)
    assert factors.tolist() == [[1.5, 1.0], [1.0, 1.5]]


def test_position_penalties_leave_the_first_hundred_alone():
    rank = torch.arange(150)
    ramp = penalties.ramp_factors(rank, torch.full((150,), 150), 2.0)[:, 0]
    assert (ramp[:101] == 1).all()
    assert ramp[-1].item() == pytest.approx(1 + 49 / 50)
    assert (ramp[100:].diff() > 0).all()
    window = penalties.window_factors(rank, 0.5)[:, 0]
    assert (window[:100] == 1).all()
    assert (window[100:] == 0.5).all()
