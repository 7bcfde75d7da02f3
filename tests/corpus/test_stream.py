"""The order of a pass depends on nothing but its seed, and a resumed pass goes on exactly."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora import make_corpus, same
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.order import permute
from omni_diffusion.corpus.stream import SampleStream
from omni_diffusion.errors import CorpusError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder, [7, 0, 11, 5])
    return Corpus(folder)


@given(st.integers(1, 5000), st.integers(-(2**70), 2**70), st.integers(0, 1000))
def test_an_epoch_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, seed, epoch)), np.arange(n))


@given(st.integers(2, 5000), st.integers(0, 99), st.data())
def test_any_part_of_an_order_can_be_had_alone(n: int, seed: int, data: st.DataObject) -> None:
    some = np.array(data.draw(st.lists(st.integers(0, n - 1))), np.int64)
    assert np.array_equal(permute(some, n, seed, 0), permute(np.arange(n), n, seed, 0)[some])


def test_the_order_is_the_same_for_ever() -> None:
    """Pinned: a change of these numbers is a change of everybody's training order."""
    assert permute(np.arange(10), 10, 0, 0).tolist() == PINNED
    assert permute(np.arange(10), 10, 0, 1).tolist() != PINNED


PINNED = [8, 0, 6, 7, 2, 3, 1, 9, 4, 5]


def test_positions_and_rows_are_unrelated() -> None:
    """Where an element lands is uniform and neighbours part: chi-square and rank correlation."""
    n, epochs = 64, 2000
    rows = np.stack([permute(np.arange(n), n, 3, e) for e in range(epochs)])
    for position in (0, 1, 31, 63):
        counts = np.bincount(rows[:, position], minlength=n)
        chi_square = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
        assert chi_square < 63 + 5 * (2 * 63) ** 0.5
    assert abs(np.corrcoef(rows[:, 0], rows[:, 1])[0, 1]) < 0.1
    assert abs(np.corrcoef(rows[:-1, 5], rows[1:, 5])[0, 1]) < 0.1


@given(st.integers(1, 50), st.sampled_from([None, 0, 5]), st.integers(1, 4))
def test_ranks_partition_the_same_global_batches(corpus, batch, seed, world) -> None:
    single = SampleStream(corpus=corpus, batch_size=batch, seed=seed)
    parts = [
        SampleStream(corpus=corpus, batch_size=batch, seed=seed, rank=r, world_size=world)
        for r in range(world)
    ]
    for step in range(len(single) + 2):
        keys = [[sample.key for sample in part[step]] for part in parts]
        merged = [keys[i % world][i // world] for i in range(batch)]
        assert merged == [sample.key for sample in single[step]]


@given(st.integers(1, 50), st.sampled_from([None, 0, 5]))
def test_every_epoch_sees_every_sample_once(corpus, batch, seed) -> None:
    stream, n = SampleStream(corpus=corpus, batch_size=batch, seed=seed), len(corpus)
    seen = np.concatenate([stream.rows(step) for step in range(3 * n // batch + 1)])
    epochs = [seen[e * n : (e + 1) * n] for e in range(3)]
    assert all(np.array_equal(np.sort(epoch), np.arange(n)) for epoch in epochs)
    if seed is not None:
        assert not np.array_equal(epochs[0], epochs[1])


def test_blocks_do_not_show(corpus, monkeypatch) -> None:
    whole = [SampleStream(corpus=corpus, batch_size=7).rows(s).tolist() for s in range(20)]
    monkeypatch.setattr("omni_diffusion.corpus.stream._BLOCK", 5)
    assert whole == [SampleStream(corpus=corpus, batch_size=7).rows(s).tolist() for s in range(20)]


def test_a_resumed_pass_is_the_uninterrupted_one(corpus) -> None:
    stream = SampleStream(corpus=corpus, batch_size=4, seed=1)
    through = [[s.key for s in batch] for batch in stream]
    state = json.loads(json.dumps(stream.state(3)))
    again = SampleStream(corpus=Corpus(corpus.storage.root), batch_size=4, seed=1)
    assert [[s.key for s in again[i]] for i in range(again.resume(state), len(again))] == through[
        3:
    ]


@pytest.mark.parametrize("change", [{"seed": 2}, {"batch_size": 5}])
def test_resuming_another_pass_is_refused_with_the_difference(corpus, change) -> None:
    state = SampleStream(corpus=corpus, batch_size=4, seed=1).state(3)
    other = SampleStream(corpus=corpus, **({"batch_size": 4, "seed": 1} | change))
    with pytest.raises(CorpusError, match="cannot resume"):
        other.resume(state)


def test_resuming_on_other_data_is_refused(corpus, tmp_path: Path) -> None:
    make_corpus(tmp_path, [7, 0, 11, 6])
    other = SampleStream(corpus=Corpus(tmp_path), batch_size=4)
    with pytest.raises(CorpusError, match="digest was"):
        other.resume(SampleStream(corpus=corpus, batch_size=4).state(1))


def test_an_empty_corpus_cannot_be_streamed(tmp_path: Path) -> None:
    make_corpus(tmp_path, [0])
    with pytest.raises(CorpusError, match="no samples"):
        SampleStream(corpus=Corpus(tmp_path), batch_size=1)


def test_a_corpus_can_be_handed_to_another_process(corpus) -> None:
    corpus.sample(0)
    again = copy.copy(corpus)  # by the protocol that worker processes use
    assert again.sample(3).key == corpus.sample(3).key


def test_worker_processes_give_the_same_samples(corpus) -> None:
    from torch.utils.data import DataLoader

    stream = SampleStream(corpus=corpus, batch_size=4, seed=1)
    for batch, again in zip(
        stream, DataLoader(stream, batch_size=None, num_workers=2), strict=True
    ):
        assert all(same(one, other) for one, other in zip(batch, again, strict=True))
