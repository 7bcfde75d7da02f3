"""The demo's media: real, valid, repeatable to the byte, and made only once."""

from __future__ import annotations

import importlib.util
import io
from collections import Counter
from pathlib import Path

import pytest
import soundfile
from PIL import Image

from corpora import files_of
from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.errors import ShardConflictError, SourceError
from omni_diffusion.pipelines import demo_media, demo_records
from omni_diffusion.pipelines.demo_media import PACKAGES, prepare_demo_media
from omni_diffusion.pipelines.demo_speaker import speak
from omni_diffusion.pipelines.sources import open_source
from omni_diffusion.pipelines.synthesize_recipe import SynthesizeRecipe
from omni_diffusion.pipelines.tokenize_recipe import TokenizeRecipe
from omni_diffusion.recipe import load_recipe
from source_checks import read_all

if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
    pytest.skip(f"needs {', '.join(missing)}", allow_module_level=True)

RECIPES = Path(__file__).parents[2]
RECIPE, SYNTHESIS = RECIPES / "tokenize" / "demo.yaml", RECIPES / "sdvi" / "demo.yaml"


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    prepare_demo_media(folder, drawings=6, questions=3, clips=8)
    return folder


def test_the_demo_recipe_reads_every_task(media: Path) -> None:
    recipe = load_recipe(RECIPE, TokenizeRecipe, [f"source.path={media}/*.tar"])
    found = read_all(open_source(recipe.source))
    items = [outcome for outcome in found if isinstance(outcome, MediaRecord)]
    assert len(items) == len(found)
    tasks = Counter(item.record.task for item in items)
    assert tasks == {"caption": 6, "t2i": 6, "vqa": 3, "asr": 4, "tts": 4}
    for item in items:
        assert item.record.license
        assert item.record.provenance["origin"]
        for picture in item.images:
            Image.open(io.BytesIO(picture)).load()
        for sound in item.audios:
            samples, rate_hz = soundfile.read(io.BytesIO(sound))
            assert rate_hz == 16_000
            assert len(samples) / rate_hz == item.record.quality["duration_s"]
            assert samples.std() > 0.01


def test_no_two_pictures_or_sentences_are_the_same(media: Path) -> None:
    recipe = load_recipe(RECIPE, TokenizeRecipe, [f"source.path={media}/*.tar"])
    items = [o for o in read_all(open_source(recipe.source)) if isinstance(o, MediaRecord)]
    assert len({item.images for item in items if item.record.task in ("t2i", "vqa")}) == 9
    assert len({item.audios for item in items if item.audios}) == 8


def test_it_is_the_same_in_every_run_and_after_a_loss(media: Path, tmp_path: Path) -> None:
    """Although Pico itself speaks a sentence in more than one way."""
    prepare_demo_media(tmp_path, drawings=6, questions=3, clips=8)
    assert files_of(tmp_path) == files_of(media)
    for name in ("clips-00000.tar", "questions-00000.tar"):
        (tmp_path / name).unlink()
    prepare_demo_media(tmp_path, drawings=6, questions=3, clips=8)
    assert files_of(tmp_path) == files_of(media)


def test_more_questions_of_a_picture_only_add_to_the_fewer() -> None:
    """Also where a record is a conversation, and pictures have fewer than are asked for."""
    numbers = range(6)
    fewer = list(demo_records.questions(numbers, conversations=True))
    more = list(demo_records.questions(numbers, each=40, conversations=True))
    assert len(fewer) == len(numbers)
    assert len(more) == demo_records.question_count(numbers, "train", 40)
    assert [item for item in more if item.key.count("-") == 1] == fewer
    assert len({item.key for item in more}) == len(more)
    assert len({(item.images, str(item.record.messages)) for item in more}) == len(more)


def test_pictures_to_be_asked_about_are_not_those_to_learn_from(tmp_path: Path) -> None:
    train = demo_records.questions(range(4000))
    pictures = {item.images for item in train}
    prepare_demo_media(tmp_path, drawings=0, questions=50, clips=0, each=2, split="test")
    overrides = [f"source.path={tmp_path}/*.tar"]
    recipe = load_recipe(RECIPE, TokenizeRecipe, overrides)
    asked = [o for o in read_all(open_source(recipe.source)) if isinstance(o, MediaRecord)]
    assert len(asked) == 100
    assert all("easy-vqa test" in item.record.provenance["origin"] for item in asked)
    assert not pictures & {item.images for item in asked}
    with pytest.raises(ShardConflictError):
        prepare_demo_media(tmp_path, drawings=0, questions=50, clips=0, split="test")


def test_written_records_know_how_many_they_are() -> None:
    words = [
        "source.questions=5",
        "source.questions_each=3",
        "source.split=test",
        "source.drawings=2",
    ]
    recipe = load_recipe(SYNTHESIS, SynthesizeRecipe, [*words, "source.captions=1"])
    source = open_source(recipe.source)
    assert len(read_all(source)) == 5 * 3 + 2 + 1
    assert sum(partition.rows or 0 for partition in source.partitions()) == 5 * 3 + 2 + 1


def test_what_is_there_is_not_made_again(media: Path, monkeypatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(demo_media, "speak", never)
    for name in ("_render", "_questions"):
        monkeypatch.setattr(demo_records, name, never)
    told: list[tuple[int, int]] = []
    prepare_demo_media(
        media, drawings=6, questions=3, clips=8, on_progress=lambda *at: told.append(at)
    )
    assert told == [(6, 17), (9, 17), (17, 17)]


def test_other_counts_need_another_folder(media: Path) -> None:
    with pytest.raises(ShardConflictError, match=r"demo-media\.json"):
        prepare_demo_media(media, drawings=6, questions=3, clips=9)


def test_more_than_there_is_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="drawings with plain names"):
        list(demo_records.drawings(range(10**6), ["t2i"]))
    with pytest.raises(SourceError, match="pictures with questions"):
        list(demo_records.questions(range(10**6)))
    assert not files_of(tmp_path)


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch) -> None:
    find = importlib.util.find_spec
    hidden = lambda name: None if name == "resvg_py" else find(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    with pytest.raises(SourceError, match=r"resvg_py: pip install 'omni-diffusion\[demo-"):
        prepare_demo_media(tmp_path)
    assert not files_of(tmp_path)


def test_a_speaker_that_fails_says_why() -> None:
    with pytest.raises(SourceError, match="exit code 1"):
        speak([("no-such-voice", "Hello.")])
