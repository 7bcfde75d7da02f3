"""`plan` and `batch`: what a run will read, before it is spent, and what a step has read."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from omni_diffusion.cli import app
from omni_diffusion.errors import OmniError, RecipeError
from training_corpora import training_corpus

RECIPE = """
data:
  tokenizer: demo
  row_length: 512
  rows_per_step: 4
  window_rows: 24
  sources:
    heard: {{corpus: {folder}/heard, weight: 3}}
    coded: {{corpus: {folder}/coded}}
  evaluation: {{held_out: 0.1}}
masking: {{preset: paper}}
model: {{hidden_size: 64}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> str:
    folder: Path = tmp_path_factory.mktemp("plan")
    training_corpus(folder / "heard", [30, 30], ["asr", "tts"])
    training_corpus(folder / "coded", [30], ["t2i", "text"], features=False)
    (folder / "r.yaml").write_text(RECIPE.format(folder=folder))
    return str(folder / "r.yaml")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_plan_prints_the_mixture_for_people_and_programs(recipe) -> None:
    found = json.loads(run("plan", recipe, "--steps", "48", "--json"))
    assert [source["configured"] for source in found["sources"]] == [0.75, 0.25]
    assert all(abs(s["planned"] - s["configured"]) < 0.01 for s in found["sources"])
    assert found["rows_per_step"] == 4 and 0.5 < found["fill"] <= 1
    text = run("plan", recipe, "--steps", "48")
    assert "heard" in text and "75.00%" in text and found["digest"] in text


def test_batch_prints_the_same_step_for_any_number_of_ranks(recipe) -> None:
    whole = json.loads(run("batch", recipe, "--step", "5", "--json"))
    parts = []
    for rank in range(2):
        options = ("--rank", str(rank), "--world-size", "2", "--json")
        found = json.loads(run("batch", recipe, "--step", "5", *options))
        assert found["digest"] == whole["digest"]
        parts += [entry | {"row": 2 * entry["row"] + rank} for entry in found["samples"]]
    assert sorted(parts, key=lambda e: (e["row"], e["start"])) == whole["samples"]
    assert whole["samples"][0]["key"] in run("batch", recipe, "--step", "5")


def test_evaluation_batches_have_negative_numbers(recipe) -> None:
    found = json.loads(run("batch", recipe, "--step", "-1", "--json"))
    assert {entry["epoch"] for entry in found["samples"]} == {-1}
    with pytest.raises(OmniError, match="evaluation batches, not 99"):
        run("batch", recipe, "--step", "-99")


def test_overrides_and_mistakes(recipe) -> None:
    seeded = [json.loads(run("plan", recipe, f"data.seed={s}", "--json"))["digest"] for s in (0, 1)]
    assert seeded[0] != seeded[1]
    with pytest.raises(RecipeError, match="did you mean 'row_length'"):
        run("plan", recipe, "data.row_lenght=5")
    with pytest.raises(OmniError, match="no rank 3 of 2"):
        run("batch", recipe, "--step", "0", "--rank", "3", "--world-size", "2")
