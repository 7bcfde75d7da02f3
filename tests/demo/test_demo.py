"""The newcomer's path as a whole: every verb once, in a folder of its own, and a page to look at.

Recipes of the user's own stay, so a small demo is one with smaller recipes put there before.
"""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from browser import Browser
from omni_diffusion.demo import demo
from omni_diffusion.demo.demo import run_demo
from omni_diffusion.demo.page import TITLES
from omni_diffusion.demo.steps import DATA, GENERATION, TRAINING, Done, read_log, write_log
from omni_diffusion.demo.workspace import RECIPES, copy_recipes, shipped_recipe
from omni_diffusion.errors import JobError

ROOT = Path(__file__).parents[2]

SMALLER = {
    "tokenize/demo.yaml": {},
    "sdvi/demo.yaml": {"source": {"questions": 12, "drawings": 8, "captions": 4}},
    "tokenize/sdvi-demo.yaml": {},
    "training/demo.yaml": {"optim": {"steps": 4}},
}


def put_smaller_recipes(folder: Path) -> None:
    copy_recipes(folder)
    for name, changes in SMALLER.items():
        values = yaml.safe_load((folder / name).read_text())
        for key, change in changes.items():
            values[key] |= change
        if name.startswith(("tokenize", "sdvi")):
            values["run"] = {"ray": {"workers": 1}}
        (folder / name).write_text(yaml.safe_dump(values, sort_keys=False))


def test_recipes_of_the_demo_are_those_of_the_repository(tmp_path: Path) -> None:
    copy_recipes(tmp_path)
    for name in RECIPES:
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()
        assert shipped_recipe(name).is_file()


def test_a_recipe_that_the_user_changed_stays(tmp_path: Path) -> None:
    copy_recipes(tmp_path)
    (tmp_path / RECIPES[0]).write_text("mine")
    copy_recipes(tmp_path)
    assert (tmp_path / RECIPES[0]).read_text() == "mine"


def test_a_step_that_fails_stops_the_demo_and_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done is not done again; what failed is."""
    run: list[str] = []

    def fails_once(command: str, _: Path) -> None:
        run.append(command)
        if run.count(command) == 1 and command.startswith("verify corpora/demo"):
            raise JobError("no")

    monkeypatch.setattr("omni_diffusion.demo.steps.run_step", fails_once)
    monkeypatch.setattr(demo, "write_examples", lambda *_: [])
    monkeypatch.setattr(demo, "write_page", lambda folder: folder / "index.html")
    with pytest.raises(JobError):
        run_demo(tmp_path, lambda _: None)
    run_demo(tmp_path, lambda _: None)
    everything = [step.command for step in (*DATA, *TRAINING, *GENERATION)]
    assert [done.command for done in read_log(tmp_path)] == everything
    assert sorted(run) == sorted([*everything, "verify corpora/demo"])


def test_the_log_survives_a_round_trip(tmp_path: Path) -> None:
    log = [Done(command="a", seconds=1.5), Done(command="b", seconds=0.1)]
    write_log(tmp_path, log)
    assert read_log(tmp_path) == log


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    put_smaller_recipes(folder)
    said: list[str] = []
    page = run_demo(folder, said.append)
    assert page == folder / "index.html"
    assert said
    yield folder
    shutil.rmtree(folder)


def test_from_pictures_and_questions_to_answers(finished: Path) -> None:
    """Each task is asked once at least, and everything that was asked is answered."""
    lines = (finished / "generated/results.jsonl").read_text().splitlines()
    results = [json.loads(line) for line in lines]
    asked = (finished / "examples/requests.jsonl").read_text().splitlines()
    assert len(results) == len(asked)
    assert not [result for result in results if "error" in result]
    assert {json.loads(line)["task"] for line in asked} == set(TITLES)


def test_the_page_shows_and_plays_everything(finished: Path, browser: Browser) -> None:
    page = finished / "index.html"
    assert page.stat().st_size < 20_000_000
    browser.open(page)
    assert browser.complaints() == []
    assert browser.requests() == [page.resolve().as_uri()]
    assert browser.evaluate("document.querySelectorAll('article').length") >= len(TITLES)
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    browser.wait("[...document.querySelectorAll('audio')].every(a => a.readyState > 0)")
    browser.size(390, 844, phone=True)
    assert browser.overflow() == 0
