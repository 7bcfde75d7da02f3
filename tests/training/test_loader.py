"""The same rows for any number of ranks, threads and restarts; no fault of a sample hides."""

import itertools
import shutil
import threading
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.errors import CorpusError, OmniError
from omni_diffusion.tokenize.chat import ChatTemplate
from omni_diffusion.tokenize.spans import from_corpus
from omni_diffusion.training.batch import Batch
from omni_diffusion.training.loader import Loader
from omni_diffusion.training.opening import open_data
from omni_diffusion.training.recipe import MaskingRecipe
from training_corpora import FEATURE_COLUMNS, TOKENIZER, damage
from training_fixtures import make_recipe

TEMPLATE, VOCABULARY = ChatTemplate(TOKENIZER), TOKENIZER.vocabulary
ARRAYS = ("ids", "inputs", "supervised", "masked", "loss_weight", "tail", "positions", "modality")


@pytest.fixture(scope="module")
def data(corpora):
    evaluation = {"held_out": 0.1}
    return open_data(make_recipe(corpora, prompt_dropout=0.3, evaluation=evaluation))


@pytest.fixture
def loader(data):
    with Loader(data, MaskingRecipe()) as opened:
        yield opened


def equal(one: Batch, other: Batch) -> bool:
    arrays = (*ARRAYS, "segments", "feature_starts")
    return (
        all(np.array_equal(getattr(one, n), getattr(other, n)) for n in arrays)
        and all(map(np.array_equal, one.features, other.features))
        and all(
            np.array_equal(getattr(one.samples, f.name), getattr(other.samples, f.name))
            for f in fields(one.samples)
        )
    )


@pytest.mark.parametrize("world_size", [2, 3, 4, 7])
def test_ranks_share_the_rows_of_one_process(data, loader, world_size) -> None:
    """Rows, masks and weights; where ranks do not divide the rows, the last ones are empty."""
    for step in (0, 5, 17):
        whole = loader.batch(step)
        parts = []
        for rank in range(world_size):
            with Loader(data, MaskingRecipe(), rank=rank, world_size=world_size) as one:
                parts.append(one.batch(step))
        assert len({part.ids.shape for part in parts}) == 1
        for name in ARRAYS:
            merged = np.concatenate([getattr(part, name) for part in parts])
            order = np.argsort(
                [r + world_size * i for r, p in enumerate(parts) for i in range(len(p.ids))]
            )
            assert np.array_equal(merged[order][: len(whole.ids)], getattr(whole, name)), name
            empty = VOCABULARY.end_of_text_id if name in ("ids", "inputs") else 0
            if name not in ("positions", "modality"):  # which padding has, too
                assert (merged[order][len(whole.ids) :] == empty).all()
        assert sum(len(p.samples) for p in parts) == len(whole.samples)


def test_batches_made_ahead_and_resumed_are_the_ones_made_alone(data, loader) -> None:
    through = list(loader.batches(0, 20))
    with Loader(data, MaskingRecipe()) as again:
        resumed = list(again.batches(data.plan.resume(data.plan.state(10)), 20))
        assert all(map(equal, through[10:], resumed))
        assert equal(again.batch(3), through[3])


def test_a_row_is_its_samples_as_the_template_lays_them_out(data, loader) -> None:
    corpora = [Corpus(source.storage.root) for source in data.sources]
    heard = 0
    for batch in itertools.islice(loader.batches(), 12):
        samples = batch.samples
        features = dict(zip(batch.feature_starts.tolist(), batch.features, strict=True))
        for i in range(len(samples)):
            sample = corpora[samples.source[i]].sample(samples.index[i])
            streams = {0: sample.streams["text"]} | {
                code: sample.streams[name]
                for code, name in ((1, "image256"), (3, "speech"))
                if name in sample.streams
            }
            made = TEMPLATE.assemble(sample.key, from_corpus(sample.key, sample.spans), streams)
            row, start, length = samples.row[i], samples.start[i], samples.length[i]
            part = np.s_[row, start : start + length]
            pads = length - len(made.ids)
            assert 1 <= pads <= 16
            assert batch.ids[part].tolist() == [*made.ids, *[VOCABULARY.end_of_text_id] * pads]
            assert batch.supervised[part].tolist() == [*made.supervised, *[True] * pads]
            assert batch.tail[part].tolist() == [False] * len(made.ids) + [True] * pads
            assert batch.positions[part].tolist() == list(range(length))
            assert len(set(batch.segments[part].tolist())) == 1
            assert samples.keys[i] == sample.key and samples.tasks[i] == sample.record.task
            visible = made.audio_indices if not samples.prompt_dropped[i] else []
            for where in visible:
                frames = features.pop(row * 512 + start + where[0])
                assert frames.shape == (len(where) - 4, FEATURE_COLUMNS)
                assert np.array_equal(frames, sample.streams["features"])
                heard += 1
        assert not features
    assert heard


def test_only_supervised_positions_are_hidden_but_for_dropped_prompts(loader) -> None:
    dropped = 0
    for batch in itertools.islice(loader.batches(), 12):
        assert not (batch.masked & ~batch.supervised).any()
        assert ((batch.loss_weight > 0) == batch.masked).all()
        hidden = batch.inputs != batch.ids
        for i in range(len(batch.samples)):
            row, start = batch.samples.row[i], batch.samples.start[i]
            part = np.s_[row, start : start + batch.samples.length[i]]
            wanted = batch.masked[part].copy()
            if batch.samples.prompt_dropped[i]:
                wanted |= ~batch.supervised[part]
                dropped += 1
            assert np.array_equal(hidden[part], wanted)
        assert (batch.inputs[hidden] == VOCABULARY.mask_id).all()
        assert not hidden[batch.segments == 0].any()
    assert dropped


def test_segment_bounds_cut_rows_into_samples_and_padding(loader) -> None:
    batch = loader.batch(2)
    flat, bounds = batch.segments.reshape(-1), batch.cu_seqlens
    assert bounds[0] == 0 and bounds[-1] == flat.size and set(range(0, 2049, 512)) <= {*bounds}
    for a, b in itertools.pairwise(bounds.tolist()):
        assert len(set(flat[a:b].tolist())) == 1
        assert batch.positions.reshape(-1)[a:b].tolist() == list(range(b - a))
    assert np.count_nonzero(np.diff(bounds)) >= len(batch.samples)


def test_evaluation_is_the_same_whenever_and_under_any_seed(corpora, loader) -> None:
    first = list(loader.evaluation())
    loader.batch(9)
    assert first and all(map(equal, first, loader.evaluation()))
    assert equal(first[-1], loader.batch(-len(first)))
    other = open_data(make_recipe(corpora, seed=4, evaluation={"held_out": 0.1}))
    with Loader(other, MaskingRecipe()) as another:
        assert all(map(equal, first, another.evaluation()))
    assert not any(batch.samples.prompt_dropped.any() for batch in first)


@pytest.fixture
def damaged(corpora, tmp_path) -> Path:
    shutil.copytree(corpora, tmp_path / "c")
    damage(tmp_path / "c/heard", "s33")
    return tmp_path / "c"


def test_a_damaged_sample_stops_the_run_by_name(damaged) -> None:
    with Loader(open_data(make_recipe(damaged)), MaskingRecipe()) as loader:
        where = r"source 'heard', sample 's33', step \d+: .*00000\.tar: member s33\.omni: damaged"
        with pytest.raises(CorpusError, match=where):
            list(loader.batches(0, 60))


@pytest.mark.parametrize("world_size", [1, 3])
def test_or_is_left_out_and_counted_and_nothing_else_changes(corpora, damaged, world_size) -> None:
    """On every rank: the others' rows do not know of it."""
    whole = open_data(make_recipe(corpora))
    broken = open_data(make_recipe(damaged, damaged="skip"))
    faults = []
    for rank in range(world_size):
        place = {"rank": rank, "world_size": world_size}
        opened = (Loader(made, MaskingRecipe(), **place) for made in (whole, broken))
        with next(opened) as one, next(opened) as other:
            for a, b in zip(one.batches(0, 30), other.batches(0, 30), strict=True):
                faults += b.faults
                assert len(a.samples) == len(b.samples) + len(b.faults)
                assert set(a.samples.keys) - {"s33"} == set(b.samples.keys) - {"s33"}
                assert set(a.samples.ratio.tolist()) >= set(b.samples.ratio.tolist())
                assert b.faults or equal(a, b)
    assert {(fault.source, fault.row) for fault in faults} == {("heard", 33)}
    assert all("CRC-32" in fault.reason for fault in faults)


def test_a_sample_longer_than_its_index_says_is_refused(corpora) -> None:
    data = open_data(make_recipe(corpora))
    for source in data.sources:
        np.minimum(source.lengths.length, 30, out=source.lengths.length)
    reason = "ids, but its index row speaks of at most 30"
    with Loader(data, MaskingRecipe()) as loader, pytest.raises(CorpusError, match=reason):
        list(loader.batches(0, 60))


def test_a_loader_that_is_left_early_ends_its_threads(data) -> None:
    before = threading.active_count()
    with Loader(data, MaskingRecipe()) as loader:
        batches = loader.batches()
        next(batches)
        batches.close()
    assert threading.active_count() == before


def test_scales_of_tasks_reach_the_loss_and_unknown_ones_are_refused(data, loader) -> None:
    with Loader(data, MaskingRecipe(task_scales={"t2i": 0.5, "asr": 0.0})) as scaled:
        for step in range(6):
            plain, other = loader.batch(step), scaled.batch(step)
            assert np.array_equal(plain.masked, other.masked)
            for i, task in enumerate(plain.samples.tasks):
                a, n = plain.samples.start[i], plain.samples.length[i]
                part = np.s_[plain.samples.row[i], a : a + n]
                factor = {"t2i": 0.5, "asr": 0.0}.get(task, 1.0)
                assert np.allclose(other.loss_weight[part], factor * plain.loss_weight[part])
    with pytest.raises(OmniError, match="no source has task 'translate'"):
        Loader(data, MaskingRecipe(task_scales={"translate": 1.0}))
