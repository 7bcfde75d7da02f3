"""Laws of the loss: chunks, masked rows and packing change nothing; samples stay apart."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from dreams import tiny_dream
from omni_diffusion.backbone.attention import Segments
from omni_diffusion.errors import OmniError
from omni_diffusion.training.loss import IGNORED, LossTable, find_targets, head_loss

LENGTHS = [5, 1, 9, 4]


def packed_labels(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Segments]:
    """Ids, labels on about half of them, and the segments of a row."""
    generator = torch.Generator().manual_seed(seed)
    segments = Segments(LENGTHS)
    ids = torch.randint(48, (segments.total,), generator=generator)
    hidden = torch.rand(segments.total, generator=generator) < 0.5
    return ids, torch.where(hidden, ids, IGNORED), segments


@given(n=st.integers(0, 30), chunk_rows=st.integers(1, 31), seed=st.integers(0, 99))
def test_a_chunked_head_equals_the_full_one(n, chunk_rows, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, 8, generator=generator, requires_grad=True)
    head = torch.randn(40, 8, generator=generator, requires_grad=True)
    targets = torch.randint(40, (n,), generator=generator)
    weights = torch.rand(n, generator=generator)
    ours = head_loss(hidden, head, targets, 7.0, weights, chunk_rows)
    full = functional.cross_entropy(hidden @ head.T, targets, reduction="none")
    expected = (full * weights).sum() / 7
    torch.testing.assert_close(ours.loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.per_target, full.detach(), rtol=1e-6, atol=1e-6)
    found = torch.autograd.grad(3 * ours.loss, (hidden, head))
    wanted = torch.autograd.grad(3 * expected, (hidden, head), materialize_grads=True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_masked_rows_alone_give_the_loss_and_gradient_of_the_full_head():
    ids, labels, segments = packed_labels()
    gradients, losses = [], []
    for masked_rows_only in (True, False):
        model = tiny_dream()
        hidden = model(ids, segments)
        targets = find_targets(labels, segments)
        if masked_rows_only:
            head = model.lm_head.weight
            loss = head_loss(hidden[targets.rows], head, targets.ids, 10, chunk_rows=3).loss
        else:
            logits = model.logits(hidden)
            full = functional.cross_entropy(
                logits[:-1], labels[1:], ignore_index=IGNORED, reduction="none"
            )
            full[segments.starts[1:] - 1] = 0
            loss = full.sum() / 10
        loss.backward()
        losses.append(loss.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_of_a_packed_row_is_the_sum_of_its_samples_losses(seed):
    ids, labels, segments = packed_labels(seed)
    model = tiny_dream(seed=seed).double()

    def loss(ids, labels, segments):
        targets = find_targets(labels, segments)
        hidden = model(ids, segments)
        return head_loss(hidden[targets.rows], model.lm_head.weight, targets.ids, 1.0).loss

    packed = loss(ids, labels, segments)
    parts = zip(ids.split(LENGTHS), labels.split(LENGTHS), strict=True)
    single = sum(loss(i, label, Segments([len(i)])) for i, label in parts)
    assert packed.item() == pytest.approx(single.item(), rel=1e-6)


def test_a_label_on_the_first_token_of_a_sample_is_not_scored():
    """The published code predicts it from the sample before: information crosses samples."""
    segments = Segments([3, 2])
    labels = torch.tensor([5, 6, IGNORED, 7, 8])
    targets = find_targets(labels, segments)
    assert targets.positions.tolist() == [1, 4]
    assert targets.rows.tolist() == [0, 3]
    assert targets.ids.tolist() == [6, 8]
    assert labels.tolist() == [5, 6, IGNORED, 7, 8]


def test_one_denominator_makes_uneven_batches_count_every_target_alike():
    """Two batches of 1 and 9 targets over one denominator equal one batch of 10."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 8, generator=generator)
    head = torch.randn(40, 8, generator=generator, requires_grad=True)
    targets = torch.randint(40, (10,), generator=generator)
    head_loss(hidden, head, targets, 10).loss.backward()
    together, head.grad = head.grad, None
    for part in (slice(0, 1), slice(1, 10)):
        head_loss(hidden[part], head, targets[part], torch.tensor(10.0)).loss.backward()
    torch.testing.assert_close(head.grad, together)


def test_a_frozen_head_gets_no_gradient_and_hidden_states_still_do():
    hidden = torch.randn(4, 8, requires_grad=True)
    head = torch.randn(40, 8)
    head_loss(hidden, head, torch.arange(4), 4).loss.backward()
    assert hidden.grad.abs().sum() > 0
    assert head.grad is None


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.floats(0, 1)), max_size=20))
def test_every_cell_of_the_table_holds_its_targets(entries):
    table = LossTable(tasks=3, modalities=4, buckets=5)
    losses = torch.arange(1.0, len(entries) + 1)
    for half in (slice(0, 7), slice(7, None)):
        chosen = entries[half]
        task, modality, ratio = (
            torch.tensor([e[i] for e in chosen], dtype=kind)
            for i, kind in enumerate((torch.long, torch.long, torch.float))
        )
        table.add(losses[half], task, modality, ratio)
    expected = torch.zeros(3, 4, 5, 2, dtype=torch.float64)
    for loss, (task, modality, ratio) in zip(losses.tolist(), entries, strict=True):
        bucket = min(int(torch.tensor(ratio).float() * 5), 4)
        expected[task, modality, bucket] += torch.tensor([loss, 1.0])
    assert torch.equal(table.sums, expected)


def test_rows_that_do_not_belong_together_are_refused():
    with pytest.raises(OmniError, match="3 hidden rows, 2 targets"):
        head_loss(torch.zeros(3, 8), torch.zeros(5, 8), torch.zeros(2).long(), 1)
