"""The stages are the paper's, say which values are not, and can be planned and estimated."""

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from omni_diffusion.cli import app
from omni_diffusion.recipe import load_recipe
from omni_diffusion.tokenize.vocabulary import PUBLISHED_TEXT_SIZE, Vocabulary
from omni_diffusion.training.estimate import Assumptions, EstimateRecipe, estimate
from omni_diffusion.training.recipe import PlanRecipe
from omni_diffusion.training.train_recipe import TrainRecipe
from training_corpora import training_corpus

ROOT = Path(__file__).parents[2]
TRAINING, TOKENIZE = ROOT / "training", ROOT / "tokenize"
STAGES = (1, 2, 3)
SPEECH = {
    *("librispeech", "common-voice-17", "gigaspeech", "peoples-speech", "voxpopuli"),
    *("libritts", "globe", "emilia", "voice-assistant-400k", "audioqa-1m"),
}
TABLE_4 = {
    1: {"tulu3", "laion2b", "journeydb-blip3o"},
    2: {"tulu3", "laion2b", "journeydb-blip3o", "llava-onevision", "vqa-own", *SPEECH},
    3: {"tulu3", "journeydb-blip3o", "llava-onevision", "vqa-own", *SPEECH}
    | {"spoken-vqa", "speech-to-image"},
}
RELEASED = "model.checkpoint=lijiang/Omni-Diffusion"
SMALL = ("data.tokenizer=demo", "data.rows_per_step=4", "data.window_rows=16")


def stage(number: int) -> Path:
    return TRAINING / f"stage{number}.yaml"


@pytest.mark.parametrize("number", STAGES)
def test_a_stage_has_the_data_of_table_4(number: int) -> None:
    recipe = load_recipe(stage(number), PlanRecipe)
    assert set(recipe.data.sources) == TABLE_4[number]
    left_out = {name for name, source in recipe.data.sources.items() if source.weight == 0}
    assert left_out <= {"vqa-own"}
    made = {path.stem for path in TOKENIZE.glob("*.yaml")} | {"spoken-vqa", "speech-to-image"}
    for name, source in recipe.data.sources.items():
        assert source.corpus == f"corpora/{name}" and name in made


@pytest.mark.parametrize("number", STAGES)
def test_a_stage_states_what_the_paper_states(number: int) -> None:
    recipe = load_recipe(stage(number), EstimateRecipe)
    plan = load_recipe(stage(number), PlanRecipe)
    assert recipe.optim.learning_rate == (1e-5 if number == 3 else 1e-4)
    assert recipe.optim.betas == (0.9, 0.95) and recipe.optim.eps == 1e-8
    assert plan.data.row_length == 3072
    assert plan.masking.preset == "paper" and plan.masking.tail_pad_ratio == 0.6
    assert not plan.masking.inverse
    assert recipe.model.speech == ("codes" if number == 1 else "features")


@pytest.mark.parametrize("number", STAGES)
def test_every_value_that_is_not_the_paper_s_says_so(number: int) -> None:
    text = stage(number).read_text()
    stated = {
        *("checkpoint", "speech", "speech_encoder", "tokenizer", "row_length"),
        *("preset", "tail_pad_ratio", "learning_rate", "betas", "eps"),
    }
    sections = {"model", "data", "masking", "optim", "run", "sources"}
    for line in text.splitlines():
        found = re.fullmatch(r" +([a-z0-9_-]+): ?(.*)", line)
        if found and found[1] not in sections and found[1] not in stated:
            assert re.search(r"# (ours|published code)", line), line
        assert len(line) <= 100


@pytest.mark.parametrize("name", [*(f"stage{n}" for n in STAGES), "lora-1gpu"])
def test_a_recipe_is_estimated_without_corpora_or_weights(name: str) -> None:
    recipe = load_recipe(TRAINING / f"{name}.yaml", EstimateRecipe, [RELEASED])
    gpus = 1 if recipe.model.lora else 8
    given = Assumptions(
        gpus=gpus,
        peak_flops=1e15,
        efficiency=0.35,
        rows_per_pass=1,
        sample_tokens=1024,
        masked_share=0.3,
    )
    found = estimate(recipe, Vocabulary(PUBLISHED_TEXT_SIZE), given)
    assert sum(found.memory.values()) < 80e9  # what its README says it needs
    assert (found.trained < found.parameters / 10) == (recipe.model.lora is not None)


@pytest.mark.parametrize("number", STAGES)
def test_a_stage_is_planned_over_corpora_of_its_names(number: int, tmp_path, monkeypatch) -> None:
    recipe = yaml.safe_load(stage(number).read_text())
    for name, source in recipe["data"]["sources"].items():
        if source["weight"]:
            task = "asr" if name in SPEECH else "text"
            training_corpus(tmp_path / source["corpus"], [6], [task])
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["plan", str(stage(number)), *SMALL, "--steps", "8", "--json"])
    assert done.exit_code == 0, done.output
    planned = {source["name"]: source["planned"] for source in json.loads(done.output)["sources"]}
    weights = {name: s["weight"] for name, s in recipe["data"]["sources"].items() if s["weight"]}
    assert planned.keys() == weights.keys()


@pytest.mark.parametrize("path", sorted(TRAINING.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_one_of_a_run(path: Path) -> None:
    load_recipe(path, TrainRecipe)


def test_every_recipe_is_listed_and_none_is_a_package() -> None:
    readme = (TRAINING / "README.md").read_text()
    assert all(f"`{path.name}`" in readme for path in TRAINING.glob("*.yaml"))
    assert not list(TRAINING.rglob("__init__.py"))
