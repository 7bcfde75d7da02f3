"""Samples of a model in training: the same questions every time, a folder that is whole."""

import json
from pathlib import Path

import pytest
from PIL import Image

from asked_corpus import asked_corpus
from checkpoints import demo_dream
from omni_diffusion.generation.generation_recipe import GenerationRecipe
from omni_diffusion.generation.training_samples import SampleWriter

RECIPE = GenerationRecipe.from_preset(t2i={"sampler": {"steps": 2}})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return asked_corpus(tmp_path_factory.mktemp("corpus"))


def test_every_task_is_asked_and_files_open(corpus, tmp_path):
    draw = SampleWriter(tmp_path, {str(corpus): None}, "demo", RECIPE)
    draw(20, demo_dream())
    folder = tmp_path / "samples/step-20"
    rows = json.loads((folder / "samples.json").read_text())
    assert [(row["task"], row["key"]) for row in rows] == [
        ("t2i", "a"),
        ("asr", "b"),
        ("tts", "c"),
        ("vqa", "d"),
        ("vqa", "e"),
        ("chat", "f"),
    ]
    with Image.open(folder / "t2i-a.png") as picture:
        assert picture.size == (256, 256)
    assert (folder / "asr-b.txt").read_text().startswith("expected: I can see it.\nanswer:   ")
    assert len(json.loads((folder / "t2i-a.codes.json").read_text())["picture"]) == 256


def test_the_same_step_is_written_again_and_others_stay(corpus, tmp_path):
    model = demo_dream()
    draw = SampleWriter(tmp_path, {str(corpus): ["d", "b"]}, "demo", RECIPE)
    draw(1, model)
    draw(2, demo_dream(seed=1))
    first = (tmp_path / "samples/step-1/samples.json").read_text()
    assert [row["key"] for row in json.loads(first)] == ["b", "d"]
    # What a killed run left behind is replaced.
    (tmp_path / "samples/step-1.new").mkdir()
    (tmp_path / "samples/step-1/old.png").write_bytes(b"")
    draw(1, model)
    assert (tmp_path / "samples/step-1/samples.json").read_text() == first
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["step-1", "step-2"]
    assert not (tmp_path / "samples/step-1/old.png").exists()


def test_other_ranks_compute_and_write_nothing(corpus, tmp_path):
    asked = []
    model = demo_dream()
    model.register_forward_hook(lambda *_: asked.append(1))
    SampleWriter(tmp_path, {str(corpus): ["f"]}, "demo", RECIPE, writes=False)(1, model)
    assert asked and not (tmp_path / "samples").exists()


def test_without_the_tokenizers_codes_are_kept_and_training_goes_on(
    corpus, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("omni_diffusion.generation.kit.is_demo", lambda _: False)
    SampleWriter(tmp_path, {str(corpus): ["a"]}, "demo", RECIPE)(1, demo_dream())
    folder = tmp_path / "samples/step-1"
    assert not (folder / "t2i-a.png").exists() and (folder / "t2i-a.codes.json").exists()
    assert "not decoded: showlab/magvitv2" in capsys.readouterr().err
