"""The file of a run tells whoever asks, also after the program has changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import NumberJob
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError
from omni_diffusion.pipelines.engine import run_job
from omni_diffusion.pipelines.run_file import last_run
from omni_diffusion.pipelines.run_recipe import RunRecipe


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """The file that a whole job left."""
    run_job(NumberJob(str(tmp_path)), RunRecipe(), "digest", local=True)
    (file,) = (tmp_path / "runs").glob("*.json")
    return file


def test_a_file_of_an_older_version_is_read_and_the_job_goes_on(told: Path, tmp_path: Path) -> None:
    """It may count what nobody counts any more, and not yet what is counted now."""
    facts = json.loads(told.read_text())
    facts["actors"] = facts.pop("workers")
    told.write_text(json.dumps(facts))
    run = last_run(Storage(str(tmp_path)))
    assert run is not None and run.rows + run.rejects == 80
    manifest, _ = run_job(NumberJob(str(tmp_path)), RunRecipe(), "digest", local=True)
    assert manifest.rows + manifest.rejects == 80


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run": 1'])
def test_a_file_that_tells_no_run_is_named(told: Path, tmp_path: Path, text: str) -> None:
    told.write_text(text)
    with pytest.raises(CorpusError, match=told.name):
        last_run(Storage(str(tmp_path)))
