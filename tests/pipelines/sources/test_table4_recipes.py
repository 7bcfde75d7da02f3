"""Each recipe reads a data set with the columns that its data set is published with."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.pipelines.sources import absolute_paths, open_source
from omni_diffusion.pipelines.tokenize_recipe import TokenizeRecipe
from omni_diffusion.recipe import load_recipe
from omni_diffusion.tokenize.chat import content_pieces
from source_checks import read_all, texts
from table4 import ROWS, TABLE4

MADE_HERE = {"demo", "sdvi-demo", "spoken-vqa", "speech-to-image"}
"""What they read is made by this package itself, and tested where that is."""

RECIPES = Path(__file__).parents[3] / "tokenize"


@pytest.mark.parametrize("name", TABLE4)
def test_a_recipe_reads_its_data_set(tmp_path: Path, name: str) -> None:
    data = TABLE4[name]
    overrides = data.build(tmp_path / "data")
    recipe = load_recipe(RECIPES / f"{name}.yaml", TokenizeRecipe, overrides)
    found = read_all(open_source(recipe.source))
    assert len(found) == ROWS
    for outcome in found:
        assert isinstance(outcome, MediaRecord), outcome
        assert outcome.record.source == name
        assert outcome.record.task
        messages = [{"role": m.role, "content": m.content} for m in outcome.record.messages]
        counts = {"images": len(outcome.images), "audios": len(outcome.audios)}
        content_pieces(outcome.key, messages, **counts)
    first = found[0]
    assert isinstance(first, MediaRecord)
    assert data.first in "\n".join(texts(first))
    assert dict(data.extra).items() <= dict(first.record.provenance).items()
    assert len(set(found[0].images + found[1].images)) == 2 * len(first.images)  # type: ignore[union-attr]


def test_every_recipe_is_tested_and_listed() -> None:
    names = {path.stem for path in RECIPES.glob("*.yaml")} - MADE_HERE
    assert names == set(TABLE4)
    readme = (RECIPES / "README.md").read_text()
    assert all(f"`{name}.yaml`" in readme for name in names)


@pytest.mark.parametrize("name", TABLE4)
def test_a_recipe_says_where_its_data_is_and_what_it_may_be_used_for(name: str) -> None:
    text = (RECIPES / f"{name}.yaml").read_text()
    head = text[: text.index("source:")]
    assert all(line.startswith("#") for line in head.splitlines())
    assert "Paper:" in head
    assert max(map(len, text.splitlines())) <= 100
    assert yaml.safe_load(text)["output"] == f"corpora/{name}"


def test_a_recipe_means_the_same_in_another_folder(tmp_path: Path, monkeypatch) -> None:
    """Workers run elsewhere than the command that started them."""
    for name in ("vqa-own", "common-voice-17", "tulu3"):
        TABLE4[name].build(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    overrides = {
        "vqa-own": ["source.path=vqa-own/train.jsonl", "source.media_root=vqa-own"],
        "common-voice-17": ["source.path=common-voice-17/train.tsv"],
        "tulu3": ["source.name=tulu3"],
    }
    recipes = [
        load_recipe(RECIPES / f"{name}.yaml", TokenizeRecipe, changes).source
        for name, changes in overrides.items()
    ]
    here = [read_all(open_source(recipe)) for recipe in recipes]
    moved = [absolute_paths(recipe) for recipe in recipes]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [read_all(open_source(recipe)) for recipe in moved] == here
    hub = load_recipe(RECIPES / "tulu3.yaml", TokenizeRecipe).source
    assert absolute_paths(hub) == hub
