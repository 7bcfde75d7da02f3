"""Two FSDP2 ranks learn what one process learns, and take up each other's checkpoints."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from training_corpora import damage
from training_ranks import RANKS, as_one_of_two
from training_runs import metrics, tiny_run, train_to

DOUBLE = {"dtype": "float64"}
"""So that the order of sums does not show."""


@pytest.fixture(scope="module")
def runs(short, tmp_path_factory) -> Path:
    """`alone` by one process; `begun_on_two`, ended by one; `ended_on_two`, begun by one."""
    root: Path = tmp_path_factory.mktemp("ranks")
    shutil.copytree(short, root / "broken")
    for key in (f"s{i}" for i in range(0, 31, 7)):
        damage(root / "broken", key)
    optim = {"steps": 6, "learning_rate": 1e-2, "ema": 0.9}
    often = {"evaluate_every": 3, "checkpoints": {"every": 6}}
    recipe = tiny_run(short, model=DOUBLE, optim=optim, run=often)
    damaged = tiny_run(root / "broken", model=DOUBLE, optim=optim, run={"evaluate_every": None})
    train_to(None, recipe, root / "alone")
    train_to(3, recipe, root / "ended_on_two")
    arguments = (os.fspath(root), recipe.model_dump_json(), damaged.model_dump_json())
    torch.multiprocessing.spawn(as_one_of_two, arguments, nprocs=RANKS)
    outcome = train_to(None, recipe, root / "begun_on_two")
    assert (outcome.step, outcome.resumed) == (6, 3)
    return root


def test_steps_have_an_empty_row_for_one_rank(runs):
    """Three rows for two ranks: the case that is easy to get wrong is among those below."""
    positions = {r["tokens"]["positions"] for r in metrics(runs / "ended_on_two")}
    assert 4 * 128 in positions


@pytest.mark.parametrize("run", ["begun_on_two", "ended_on_two"])
def test_losses_and_weights_are_those_of_one_process(runs, run):
    for ours, alone in zip(metrics(runs / run), metrics(runs / "alone"), strict=True):
        assert (ours["kind"], ours["step"]) == (alone["kind"], alone["step"])
        for name in {"loss", "cross_entropy", "grad_norm", "lr"} & alone.keys():
            assert ours[name] == pytest.approx(alone[name], rel=1e-6), (ours["step"], name)
        assert ours["samples"] == alone["samples"]
        assert ours["tokens"]["targets"] == alone["tokens"]["targets"]
        for by, parts in ours["loss_by"].items():
            assert parts == pytest.approx(alone["loss_by"][by], rel=1e-6)
    found, wanted = (
        load_file(next((runs / r / "model").glob("*.safetensors"))) for r in (run, "alone")
    )
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        assert np.allclose(tensor, wanted[name], rtol=1e-6, atol=1e-6), name


def test_a_damaged_sample_stops_all_ranks_with_its_name(runs):
    said = [json.loads((runs / f"said-{rank}.json").read_text()) for rank in range(RANKS)]
    reason = next(text for text in said if not text.startswith("rank"))
    assert "source 'made', sample 's" in reason and "CRC-32" in reason
    told = next((text for text in said if text.startswith("rank")), None)
    assert told is None or told.endswith(reason)
