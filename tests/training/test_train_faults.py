"""What must not happen in a run stops it by name, and leaves the last good checkpoint alone."""

import errno
import json
import math
import shutil
from pathlib import Path

import pytest
from torch.distributed.checkpoint import HuggingFaceStorageWriter

from omni_diffusion.errors import CheckpointError, DiskFullError, OmniError, TrainingError
from omni_diffusion.training.guard import Guard
from omni_diffusion.training.loader import Loader
from omni_diffusion.training.opening import open_data
from omni_diffusion.training.parallel import World
from omni_diffusion.training.train import train
from omni_diffusion.training.train_recipe import GuardRecipe
from training_corpora import damage
from training_runs import metrics, tiny_run, train_to


@pytest.fixture(scope="module")
def stopped(short, tmp_path_factory) -> Path:
    """A run that was stopped after step 6."""
    run: Path = tmp_path_factory.mktemp("stopped")
    train_to(6, tiny_run(short), run)
    return run


@pytest.fixture
def run(stopped, tmp_path) -> Path:
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-????????"))


def test_a_loss_that_is_no_number_names_its_samples(short, tmp_path):
    """One text id is poisoned: only samples that show it have no finite loss."""
    recipe = tiny_run(short, run={"samples_every": 5, "checkpoints": {"every": 4}})
    with Loader(open_data(recipe.data), recipe.masking) as loader:
        batch = loader.batch(5)
    samples = batch.samples
    shown = []
    for row, start, length in zip(samples.row, samples.start, samples.length, strict=True):
        part = (row, slice(start, start + length))
        shown.append(set(batch.inputs[part].tolist()) if batch.masked[part].any() else set())
    counts = {id_: sum(id_ in ids for ids in shown) for id_ in set().union(*shown)}
    poison = min(counts, key=lambda id_: (counts[id_], id_))
    guilty = {key for key, ids in zip(samples.keys, shown, strict=True) if poison in ids}
    innocent = set(samples.keys) - guilty
    assert guilty and innocent

    def spoil(_step, model):
        model.model.embed_tokens.weight[poison] = math.nan

    with pytest.raises(TrainingError, match="before step 5 was applied: the loss is nan") as caught:
        train(recipe, tmp_path, World(), on_sample=spoil)
    for key in guilty:
        assert f"made/{key} (row" in str(caught.value)
    for key in innocent:
        assert f"made/{key} (row" not in str(caught.value)
    assert newest(tmp_path).name == "step-00000004"


def test_a_gradient_that_is_no_number_stops_too():
    guard = Guard(GuardRecipe())
    assert "gradient is inf" in str(guard.fault(1.0, math.inf))
    assert guard.fault(1.0, 2.0) is None and list(guard.losses) == [1.0]


def test_a_spike_is_measured_by_the_median_of_the_last_losses():
    guard = Guard(GuardRecipe(spike=3.0, window=4))
    for loss in (9.0, 2.0, 2.2, 1.8):
        assert guard.fault(loss, 1.0) is None  # too few to compare with
    assert "3.1 times" not in str(guard.fault(6.0, 1.0))
    assert guard.fault(7.0, 1.0) is not None
    assert 7.0 not in guard.losses
    never = Guard(GuardRecipe(spike=None, window=4), [1.0] * 4)
    assert never.fault(1e9, 1.0) is None
    low = Guard(GuardRecipe(spike=3.0, window=4), [0.01] * 4)
    assert low.fault(0.5, 1.0) is None  # a model that knows its data by heart


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_from_it(
    short, run, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = {path: path.stat().st_size for path in newest(run).iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(HuggingFaceStorageWriter, "write_data", full)
        with pytest.raises(DiskFullError, match=r"step-00000010: no room .* untouched"):
            train_to(None, tiny_run(short), run)
    assert newest(run).name == "step-00000006"
    assert {path: path.stat().st_size for path in newest(run).iterdir()} == before
    assert not list((run / "checkpoints").glob("*.partial"))
    assert train_to(None, tiny_run(short), run).resumed == 6


def test_a_folder_of_another_recipe_is_refused_with_the_differences(short, run):
    other = tiny_run(short, optim={"learning_rate": 3e-3}, masking={"preset": "paper"})
    with pytest.raises(TrainingError) as caught:
        train_to(None, other, run)
    assert "masking.preset was 'low-variance' and is 'paper'" in str(caught.value)
    assert "optim.learning_rate was 0.01 and is 0.003" in str(caught.value)
    assert "Give another --out" in str(caught.value)


def test_what_does_not_decide_the_result_may_change(short, run):
    changed = {"evaluate_every": 4, "rows_per_pass": 2, "checkpoints": {"every": 9, "keep": 1}}
    recipe = tiny_run(short, run=changed, data={"prefetch_steps": 1})
    assert train_to(None, recipe, run).step == 20
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000020"]


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("data", {"seed": 7}, "cannot resume: seed was 0 and is 7"),
        ("data", {"row_length": 256}, "cannot resume: row_length was 128 and is 256"),
    ],
)
def test_a_checkpoint_of_another_plan_is_refused(short, run, tmp_path, section, changes, message):
    shutil.copytree(run / "checkpoints", tmp_path / "other/checkpoints")
    with pytest.raises(OmniError, match=message):
        train_to(None, tiny_run(short, **{section: changes}), tmp_path / "other")


def test_a_checkpoint_of_another_vocabulary_or_model_is_refused(short, run):
    path = newest(run) / "state.json"
    state = json.loads(path.read_text())
    for what, name, value in (("vocabulary", "image", "i-2"), ("model", "hidden_size", 16)):
        path.write_text(json.dumps(state | {what: state[what] | {name: value}}))
        reason = f"is of another {what}: {name} was {value!r} and is"
        with pytest.raises(CheckpointError, match=reason):
            train_to(None, tiny_run(short), run)


@pytest.mark.parametrize("fault", ["shorter", "absent", "no state", "version"])
def test_a_damaged_checkpoint_is_refused_with_the_way_out(short, run, fault):
    (file,) = newest(run).glob("*.safetensors")
    state = newest(run) / "state.json"
    if fault == "shorter":
        file.write_bytes(file.read_bytes()[:-100])
    elif fault == "absent":
        file.unlink()
    elif fault == "no state":
        state.write_text("{")
    else:
        state.write_text(state.read_text().replace('"version": 1', '"version": 99'))
    wanted = "has format 99" if fault == "version" else "remove this checkpoint to go on from"
    with pytest.raises(CheckpointError, match=wanted):
        train_to(None, tiny_run(short), run)
    shutil.rmtree(newest(run))
    assert train_to(None, tiny_run(short), run).resumed == 5


def test_damaged_samples_are_left_out_and_counted_or_stop_the_run(short, tmp_path):
    shutil.copytree(short, tmp_path / "broken")
    damage(tmp_path / "broken", "s3")
    skipping = tiny_run(tmp_path / "broken", data={"damaged": "skip"}, run={"evaluate_every": None})
    assert train_to(None, skipping, tmp_path / "skip").step == 20
    lines = metrics(tmp_path / "skip")
    faults = [line for line in lines if line["kind"] == "left_out"]
    assert sum(line["left_out"] for line in lines if line["kind"] == "train") == len(faults) > 1
    assert {(line["source"], line["row"]) for line in faults} == {("made", 3)}
    assert all("CRC-32" in line["reason"] for line in faults)
    stopping = tiny_run(tmp_path / "broken", run={"evaluate_every": None})
    with pytest.raises(OmniError, match="source 'made', sample 's3', step"):
        train_to(None, stopping, tmp_path / "stop")


def test_checkpoints_are_kept_by_number_and_by_step(short, tmp_path):
    kept = {"every": 3, "keep": 2, "keep_every": 6}
    recipe = tiny_run(short, run={"evaluate_every": None, "checkpoints": kept})
    train_to(None, recipe, tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert [int(name.removeprefix("step-")) for name in names] == [6, 12, 18, 20]
