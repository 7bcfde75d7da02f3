"""Rows in parts, rows together, with activations kept or computed again: one loss, one gradient."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from dreams import tiny_dream, tiny_speech
from omni_diffusion.training.batch import Batch
from omni_diffusion.training.forward import batch_loss, prepare, weight_of
from omni_diffusion.training.loader import Loader
from omni_diffusion.training.opening import open_data
from omni_diffusion.training.recipe import MaskingRecipe
from training_corpora import TOKENIZER
from training_runs import short_corpus, tiny_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batches(tmp_path_factory) -> list[Batch]:
    recipe = tiny_run(short_corpus(tmp_path_factory.mktemp("short")))
    with Loader(open_data(recipe.data), recipe.masking, rank=0, world_size=2) as loader:
        return [loader.batch(step) for step in range(3)]


def model():
    return tiny_dream(TOKENIZER.vocabulary.size).double().train()


def gradient_of(parts, denominator, **attributes):
    """Loss and gradient of some batches together."""
    dream = model()
    for layer in dream.model.layers:
        layer.recompute = attributes.get("recompute", False)
    loss = 0.0
    for part in parts:
        found = batch_loss(dream, prepare(part, CPU), denominator)
        found.loss.backward()
        loss += found.loss.item()
    return loss, torch.cat([p.grad.flatten() for p in dream.parameters()])


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_parts_are_the_batch(batches, rows):
    for batch in batches:
        parts = list(batch.parts(rows))
        assert [len(part.ids) for part in parts[:-1]] == [rows] * (len(parts) - 1)
        for name in ("ids", "inputs", "masked", "loss_weight", "positions", "segments", "tail"):
            assert np.array_equal(
                np.concatenate([getattr(part, name) for part in parts]), getattr(batch, name)
            )
        assert [key for part in parts for key in part.samples.keys] == list(batch.samples.keys)
        at = 0
        for part in parts:
            for i in range(len(part.samples)):
                row, start = part.samples.row[i], part.samples.start[i]
                assert part.positions[row, start] == 0 and part.segments[row, start] > 0
            for field in fields(part.samples):
                assert len(getattr(part.samples, field.name)) == len(part.samples)
            at += len(part.ids)
        assert at == len(batch.ids)


def test_accumulated_parts_equal_all_rows_at_once(batches):
    batch, denominator = batches[0], weight_of(batches[0], MaskingRecipe())
    whole, parts = (gradient_of(batch.parts(rows), denominator) for rows in (9, 1))
    assert parts[0] == pytest.approx(whole[0], rel=1e-6)
    torch.testing.assert_close(parts[1], whole[1], rtol=1e-6, atol=1e-9)


def test_activations_computed_again_change_nothing(batches):
    parts = list(batches[0].parts(2))
    kept, again = (gradient_of(parts, 10.0, recompute=recompute) for recompute in (False, True))
    assert kept[0] == again[0]
    assert torch.equal(kept[1], again[1])


def test_the_denominator_counts_what_the_weighting_promises(batches):
    batch = batches[0]
    assert weight_of(batch, MaskingRecipe()) == batch.supervised.sum()
    assert weight_of(batch, MaskingRecipe(preset="paper")) == batch.masked.sum()


def test_rows_without_samples_cost_nothing_and_still_give_gradients(batches):
    """A rank whose row is empty takes part in every collective of a sharded model."""
    batch = batches[0]
    blank = next(batch.parts(1))
    arrays = {
        "segments": np.zeros_like(blank.segments),
        "masked": np.zeros_like(blank.masked),
        "positions": np.arange(blank.ids.shape[1], dtype=np.int32)[None],
    }
    loss, gradient = gradient_of([replace(blank, **arrays)], 10.0)
    assert loss == 0 and (gradient == 0).all()


def test_a_model_that_hears_takes_part_with_its_projector_without_sound(batches):
    dream = tiny_dream(TOKENIZER.vocabulary.size, speech=tiny_speech()).double().train()
    batch_loss(dream, prepare(next(batches[0].parts(1)), CPU), 10.0).loss.backward()
    learning = [p for p in dream.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in learning)
    assert all((p.grad == 0).all() for p in dream.model.audio_projection.parameters())
