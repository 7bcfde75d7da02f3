"""`train`: from a recipe to a model that loads, stopped and started again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from omni_diffusion.backbone.checkpoint import load_dream
from omni_diffusion.cli import app
from omni_diffusion.errors import OmniError, RecipeError, TrainingError
from omni_diffusion.tokenize.text import TextTokenizer
from training_runs import metrics, short_corpus, tiny_run


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("verb")
    made = tiny_run(short_corpus(folder / "corpus"), optim={"steps": 3})
    (folder / "tiny.yaml").write_text(made.to_yaml())
    return folder / "tiny.yaml"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["train", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_recipe_becomes_a_model(recipe, tmp_path) -> None:
    done = run(recipe, "--out", tmp_path / "run", "run.rows_per_pass=2")
    assert f"{tmp_path / 'run/model'}: the model after 3 steps" in done
    assert "step 3: held-out loss" in done and "step 3 of 3: loss" in done
    vocabulary = TextTokenizer.from_pretrained(tmp_path / "run/model").vocabulary
    assert load_dream(tmp_path / "run/model", vocabulary=vocabulary).config.hidden_size == 8
    assert len(metrics(tmp_path / "run")) == 3 + 2
    assert "rows_per_pass: 2" in (tmp_path / "run/recipe.yaml").read_text()
    again = run(recipe, "--out", tmp_path / "run")
    assert "all 3 steps were done before" in again


def test_what_programs_read(recipe, tmp_path) -> None:
    output = run(recipe, "--out", tmp_path / "run", "--json", "run.evaluate_every=null")
    found = json.loads(output[output.index("{\n") :])
    assert found == {
        "run": str(tmp_path / "run"),
        "step": 3,
        "steps": 3,
        "resumed": None,
        "model": str(tmp_path / "run/model"),
        "signal": None,
    }


def test_mistakes_name_the_key_or_the_corpus(recipe, tmp_path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'steps'"):
        run(recipe, "--out", tmp_path / "run", "optim.step=3")
    with pytest.raises(OmniError, match="nowhere"):
        run(recipe, "--out", tmp_path / "run", "data.sources.made.corpus=/nowhere")
    with pytest.raises(OmniError, match="weights of the sources sum to 0"):
        run(recipe, "--out", tmp_path / "other", "data.sources.made.weight=0")
    run(recipe, "--out", tmp_path / "third")
    with pytest.raises(TrainingError, match=r"is the run of another recipe: optim.steps was 3"):
        run(recipe, "--out", tmp_path / "third", "optim.steps=4")


def test_a_signal_saves_and_says_how_to_go_on(recipe, tmp_path) -> None:
    """In a process of its own, as a scheduler would end it."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "omni_diffusion", "train", recipe, "optim.steps=100000"]
    process = subprocess.Popen(
        [*map(str, command), "--out", str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline(), "it ended before it had learned anything"
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130, "as Ctrl-C, and as jobs do"
    step = int(said.split("stopped after step ")[1].split()[0])
    assert "the same command goes on from there" in said
    saved = sorted(path.name for path in (folder / "checkpoints").iterdir()) if step else []
    assert saved == ([f"step-{step:08d}"] if step else [])
