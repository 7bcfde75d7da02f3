"""A run that was stopped or killed ends as if nothing had happened, bit for bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from omni_diffusion.training.opening import open_data
from training_runs import exported, last_state, metrics, tiny_run, train_to


@pytest.fixture(scope="module")
def undisturbed(short, tmp_path_factory) -> Path:
    run: Path = tmp_path_factory.mktemp("undisturbed")
    assert train_to(None, tiny_run(short), run).step == 20
    return run


def assert_same(run: Path, undisturbed: Path) -> None:
    """Weights, moments, averages, figures and the model that others get."""
    assert last_state(run) == last_state(undisturbed)
    assert metrics(run) == metrics(undisturbed)
    assert exported(run) == exported(undisturbed)


def test_a_run_reports_every_step_and_learns(undisturbed):
    records = metrics(undisturbed)
    assert [r["step"] for r in records if r["kind"] == "train"] == list(range(1, 21))
    evaluations = [r for r in records if r["kind"] == "eval"]
    assert [r["step"] for r in evaluations] == [0, 5, 10, 15, 20]
    losses = [r["loss"] for r in evaluations]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize(
    "stops",
    [
        (10,),
        (7, 11),  # between checkpoints, then once more: a second resume
        (4,),  # where the first pass over the corpus ends
    ],
)
def test_stopped_by_a_signal_and_resumed(short, undisturbed, tmp_path, stops):
    before = None
    for stop in stops:
        outcome = train_to(stop, tiny_run(short), tmp_path)
        assert (outcome.step, outcome.resumed, outcome.model) == (stop, before, None)
        assert outcome.signal == "SIGTERM"
        before = stop
    outcome = train_to(None, tiny_run(short), tmp_path)
    assert (outcome.step, outcome.resumed) == (20, before)
    assert_same(tmp_path, undisturbed)


def test_the_first_pass_ends_after_four_steps(short):
    """So that the test above stops there."""
    plan = open_data(tiny_run(short).data).plan
    assert [set(plan.step(step).epoch.tolist()) for step in (3, 4)] == [{0}, {1}]


@pytest.mark.parametrize("when", ["save", "publish", "accumulation"])
def test_killed_and_resumed(short, undisturbed, tmp_path, when):
    support = Path(__file__).parents[1] / "support"
    command = [sys.executable, "-m", "training_killed", short, tmp_path, when]
    environment = os.environ | {"PYTHONPATH": str(support), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    left = [name for name in names if name.endswith(".partial")]
    assert bool(left) == (when != "accumulation")
    outcome = train_to(None, tiny_run(short), tmp_path)
    assert outcome.resumed == 5
    assert not list((tmp_path / "checkpoints").glob("*.partial"))
    assert_same(tmp_path, undisturbed)


def test_starting_again_after_the_end_changes_nothing(short, undisturbed):
    state, figures, files = last_state(undisturbed), metrics(undisturbed), exported(undisturbed)
    outcome = train_to(None, tiny_run(short), undisturbed)
    assert outcome.resumed == outcome.step == 20
    found = last_state(undisturbed), metrics(undisturbed), exported(undisturbed)
    assert found == (state, figures, files)
