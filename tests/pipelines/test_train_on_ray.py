"""`train --launcher ray`: workers of a cluster learn what one process learns."""

from pathlib import Path

import pytest

from omni_diffusion.errors import TrainingError
from omni_diffusion.training.parallel import World
from omni_diffusion.training.ray_launcher import train_on_ray
from omni_diffusion.training.train import train
from training_corpora import damage
from training_runs import metrics, short_corpus, tiny_run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return short_corpus(tmp_path_factory.mktemp("short"))


@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_learn_what_one_process_does_and_say_what_stopped_them(corpus, tmp_path):
    ray = {"workers": 2, "tries": 1}
    changes = {"model": {"dtype": "float64"}, "optim": {"steps": 3}}
    recipe = tiny_run(corpus, run={"ray": ray, "evaluate_every": 3}, **changes)
    outcome = train_on_ray(recipe, tmp_path / "ray")
    assert (outcome.step, outcome.model) == (3, str(tmp_path / "ray/model"))
    train(recipe, tmp_path / "alone", World())
    for ours, alone in zip(metrics(tmp_path / "ray"), metrics(tmp_path / "alone"), strict=True):
        assert ours["step"] == alone["step"]
        assert ours["loss"] == pytest.approx(alone["loss"], rel=1e-6)

    for key in (f"s{i}" for i in range(0, 31, 3)):
        damage(corpus, key)
    reason = r"on Ray failed: (rank \d stopped: )?source 'made', sample 's\d+', step .*CRC-32"
    with pytest.raises(TrainingError, match=reason):
        train_on_ray(recipe, tmp_path / "damaged")
