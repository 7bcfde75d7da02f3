"""Packing laws: samples side by side in one row compute what each computes alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreams import tiny_dream, tiny_speech
from omni_diffusion.backbone.attention import (
    Segments,
    attend_flex,
    attend_segments,
    rotary_tables,
    rotate,
)
from omni_diffusion.backbone.dream import Inserts, shifted_rows
from omni_diffusion.errors import OmniError

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def rows(lengths: list[int], vocab: int = 50) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randint(vocab, (n,), generator=generator) for n in lengths]


@given(LENGTHS)
@torch.no_grad()
def test_a_packed_row_gives_what_its_samples_give_alone(lengths):
    model = tiny_dream().double()
    samples = rows(lengths)
    packed = model(torch.cat(samples), Segments(lengths))
    alone = torch.cat([model(ids, Segments([len(ids)])) for ids in samples])
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-6)


def test_no_gradient_crosses_from_one_sample_to_another():
    model = tiny_dream()
    lengths = [4, 1, 7, 7]
    segments = Segments(lengths)
    start = segments.starts[2]
    vectors = torch.randn(segments.total, model.config.hidden_size, requires_grad=True)
    inserts = Inserts(torch.arange(segments.total), vectors)
    hidden = model(torch.zeros(segments.total).long(), segments, inserts)
    hidden[start : start + lengths[2]].square().sum().backward()
    inside = torch.zeros(segments.total, dtype=torch.bool)
    inside[start : start + lengths[2]] = True
    assert (vectors.grad[~inside] == 0).all()
    assert (vectors.grad[inside] != 0).all()


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@settings(max_examples=15)
@given(LENGTHS)
def test_flex_attention_equals_the_reference(lengths):
    """The mask that the GPU kernel gets lets through exactly what the reference attends to."""
    segments = Segments(lengths)
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(segments.total, 4, 8, generator=generator)
    key, value = torch.randn(2, segments.total, 2, 8, generator=generator)
    expected = attend_segments(query, key, value, segments)
    torch.testing.assert_close(attend_flex(query, key, value, segments), expected)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_queries_may_be_fewer_than_keys():
    """What a cache needs: some tokens of each sample attend to all of it."""
    generator = torch.Generator().manual_seed(2)
    lengths = [5, 8, 5]
    query = torch.randn(18, 4, 8, generator=generator)
    key, value = torch.randn(2, 18, 2, 8, generator=generator)
    whole = attend_segments(query, key, value, Segments(lengths))
    asked = torch.tensor([1, 2, 6, 9, 17])
    part = Segments([2, 2, 1], key_lengths=lengths)
    for kernel in (attend_segments, attend_flex):
        torch.testing.assert_close(kernel(query[asked], key, value, part), whole[asked])


@given(LENGTHS)
def test_segments_are_found_from_positions_and_from_bounds(lengths):
    segments = Segments(lengths)
    assert Segments.from_positions(segments.positions).lengths == tuple(lengths)
    bounds = [*segments.starts.tolist(), segments.total]
    assert Segments.from_bounds(bounds).lengths == tuple(lengths)


def test_a_row_predicts_the_next_token_of_its_own_sample():
    assert shifted_rows(Segments([3, 1, 2])).tolist() == [0, 0, 1, 3, 4, 4]


def test_rotary_attention_depends_on_distance_only():
    generator = torch.Generator().manual_seed(3)
    query, key = torch.randn(2, 1, 1, 8, generator=generator)
    scores = [
        (rotate(query, rotary_tables(torch.tensor([p]), 8, 1e6)))
        .mul(rotate(key, rotary_tables(torch.tensor([p + 5]), 8, 1e6)))
        .sum()
        .item()
        for p in (0, 17, 400)
    ]
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-4)


def test_speech_gradients_reach_the_projector_and_leave_the_encoder_alone():
    model = tiny_dream(speech=tiny_speech())
    features = [torch.randn(6, 560), torch.randn(2, 560)]
    vectors = torch.cat(model.embed_speech(features))
    assert len(vectors) == 6 + 4 + 2 + 4
    ids = torch.zeros(20).long()
    model(ids, Segments([20]), Inserts(torch.arange(2, 18), vectors)).sum().backward()
    assert all(p.grad is None for p in model.model.audio_model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.model.audio_projection.parameters())


def test_what_does_not_fit_together_is_refused():
    model = tiny_dream()
    with pytest.raises(OmniError, match="cover 5 tokens of a row of 6"):
        model(torch.zeros(6).long(), Segments([5]))
    with pytest.raises(OmniError, match="600 tokens is longer than the model's 512"):
        model(torch.zeros(600).long(), Segments([600]))
    with pytest.raises(OmniError, match="must hold tokens"):
        Segments([3, 0])
    with pytest.raises(OmniError, match="begin with position 0"):
        Segments.from_positions(torch.tensor([1, 2]))
    with pytest.raises(OmniError, match="no speech encoder"):
        model.embed_speech([torch.zeros(1, 560)])
