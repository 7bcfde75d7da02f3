"""The loop that we measure against computes the same function, by the published means."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dreams import tiny_dream
from omni_diffusion.backbone.attention import Segments
from omni_diffusion.training.loss import find_targets, head_loss

LENGTHS = [9, 14, 5]
END, MASK = 48, 49


@pytest.fixture
def published(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2]), *sys.path])
    pytest.importorskip("transformers")
    from benchmarks import published_loop

    return published_loop


def row_of(published, lengths: list[int]):
    rng, row = np.random.default_rng(0), published.Row()
    for length in lengths:
        answers = np.arange(length) >= 2
        row.add(rng.integers(0, 48, length - 2), answers[: length - 2], 2, END)
    return row


def test_both_loops_have_one_loss_and_one_gradient(published) -> None:
    """Where there is no padding, which the published attention lets samples see."""
    ours = tiny_dream().train()
    model = published.qwen2(ours.config, ours.state_dict())
    row = row_of(published, LENGTHS)
    inputs = published.collate(row, np.random.default_rng(1), END, MASK, sum(LENGTHS))
    segments = Segments(LENGTHS)
    targets = find_targets(inputs.labels[0], segments)
    assert 5 < len(targets.ids) < sum(LENGTHS)
    hidden = ours(inputs.ids[0], segments)[targets.rows]
    loss = head_loss(hidden, ours.lm_head.weight, targets.ids, len(targets.ids)).loss
    theirs = published.loss_of(model, inputs)
    torch.testing.assert_close(theirs, loss, rtol=1e-5, atol=1e-6)
    loss.backward()
    theirs.backward()
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)


def test_it_packs_each_kind_of_sample_for_itself_and_hides_half(published) -> None:
    row = row_of(published, [9, 14])
    inputs = published.collate(row, np.random.default_rng(2), END, MASK, sum(LENGTHS))
    mask = inputs.mask[0]
    assert mask[:9, :9].all() and not mask[:9, 9:].any() and not mask[9:, :9].any()
    assert mask[9:, 9:].all()  # the last sample and the padding see each other
    assert inputs.positions[0].tolist() == [*range(9), *range(19)]
    rng, hidden = np.random.default_rng(3), 0
    for _ in range(400):
        hidden += int((published.collate(row, rng, END, MASK, sum(LENGTHS)).ids[0] == MASK).sum())
    expected = 400 * (15 * 0.5005 + 4 * 0.5005 * 0.6)
    assert hidden == pytest.approx(expected, rel=0.03)
