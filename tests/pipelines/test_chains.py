"""Chains: steps in order, stopped and taken up again; and the chains that this repository ships."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from corpora import make_corpus
from media_jobs import recipe, write_source
from omni_diffusion.corpus.rejects import read_rejects
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import JobError
from omni_diffusion.pipelines.chain import JOBS, ChainRecipe, run_chain
from omni_diffusion.pipelines.tokenize_recipe import TokenizeRecipe
from omni_diffusion.recipe import load_recipe
from table4 import TABLE4

ROOT = Path(__file__).parents[2]
CHAINS = sorted((ROOT / "pipelines").glob("*.yaml"))


def steps_of(path: Path) -> list[list[str]]:
    return [shlex.split(step) for step in load_recipe(path, ChainRecipe).steps]


def output_of(words: list[str]) -> str:
    return str(yaml.safe_load((ROOT / words[1]).read_text())["output"])


@pytest.mark.parametrize("path", CHAINS, ids=lambda path: path.stem)
def test_a_chain_runs_recipes_that_are_there_and_checks_what_they_make(path: Path) -> None:
    steps = steps_of(path)
    jobs = [words for words in steps if words[0] in JOBS]
    checked = [words[1] for words in steps if words[0] == "verify"]
    assert all(words[0] in {*JOBS, "verify", "demo-media"} for words in steps)
    made = {output_of(words) for words in jobs}
    assert set(checked) <= made
    assert made - set(checked) <= {"corpora/spoken-vqa-media", "corpora/speech-to-image-media"}


def test_the_stages_make_every_data_set_that_the_paper_trains_on() -> None:
    names = ("stage1", "stage2", "stage3")
    steps = [words for name in names for words in steps_of(ROOT / f"pipelines/{name}.yaml")]
    made = [Path(words[1]).stem for words in steps if words[0] == "tokenize"]
    assert len(made) == len(set(made))
    # The paper's table lists JourneyDB twice; its second form is an alternative to the first.
    assert set(made) == set(TABLE4) - {"journeydb"} | {"spoken-vqa", "speech-to-image"}


def test_every_chain_is_listed() -> None:
    readme = (ROOT / "pipelines/README.md").read_text()
    assert CHAINS
    assert all(f"`{path.name}`" in readme for path in CHAINS)


def test_recipes_of_made_speech_read_what_synthesis_writes() -> None:
    for name in ("spoken-vqa", "speech-to-image", "sdvi-demo"):
        tokenize = load_recipe(ROOT / f"tokenize/{name}.yaml", TokenizeRecipe)
        folder = "demo" if name == "sdvi-demo" else name
        written = yaml.safe_load((ROOT / f"sdvi/{folder}.yaml").read_text())["output"]
        assert f"{written}/shards/*.tar" in json.dumps(tokenize.model_dump())


def test_steps_run_in_order_until_one_fails(tmp_path: Path) -> None:
    """The error names the step; those behind it are not begun."""
    for name in ("a", "c"):
        make_corpus(tmp_path / name, [1])
    said: list[str] = []
    chain = ChainRecipe(steps=tuple(f"verify '{tmp_path}/{name}'" for name in "abc"))
    with pytest.raises(JobError, match=r"step 2 of 3 \(verify .*/b\) ended with exit code 1"):
        run_chain(chain, said.append)
    assert [line[:5] for line in said] == ["[1/3]", "[1/3]", "[2/3]"]


@pytest.mark.parametrize(("step", "reason"), [("verify 'a", "No closing quotation"), ("", "empty")])
def test_a_step_that_cannot_be_read_stops_the_chain_before_anything_runs(
    tmp_path: Path, step: str, reason: str
) -> None:
    make_corpus(tmp_path / "a", [1])
    said: list[str] = []
    with pytest.raises(JobError, match=f"step 2.*{reason}"):
        run_chain(ChainRecipe(steps=(f"verify {tmp_path}/a", step)), said.append)
    assert not said


def test_jobs_get_the_chains_overrides_and_are_taken_up_where_they_stopped(tmp_path: Path) -> None:
    """A dry run writes nothing; a chain that is broken off goes on with the same command."""
    write_source(tmp_path / "data", 4)
    wanted = recipe(str(tmp_path / "data"), str(tmp_path / "out"))
    (tmp_path / "job.yaml").write_text(wanted.to_yaml())
    steps = (f"tokenize {tmp_path}/job.yaml --local", f"verify {tmp_path}/out")
    missing = ChainRecipe(steps=steps, overrides=(f"source.path={tmp_path}/none.jsonl",))
    said: list[str] = []
    run_chain(missing, said.append, dry_run=True)
    assert said[1] == "[1/2] nothing can be said yet"
    run_chain(ChainRecipe(steps=steps), said.append, dry_run=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(JobError, match="step 1 of 2"):
        run_chain(missing, said.append)
    (tmp_path / "data/1.png").unlink()
    run_chain(ChainRecipe(steps=steps), said.append)
    assert [reject.stage for reject in read_rejects(Storage(tmp_path / "out"), 0)] == ["read"]


def test_a_chain_passes_on_a_request_to_stop(tmp_path: Path) -> None:
    """SIGTERM comes to the chain alone; its step must not go on without it."""
    os.mkfifo(tmp_path / "wait.yaml")  # a recipe that never comes
    chain = tmp_path / "chain.yaml"
    chain.write_text(yaml.safe_dump({"steps": [f"tokenize {tmp_path}/wait.yaml"]}))
    words = [sys.executable, "-m", "omni_diffusion", "run", str(chain)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("[1/1] tokenize")
        with (tmp_path / "wait.yaml").open("w"):  # returns when the step has opened it to read
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 130
