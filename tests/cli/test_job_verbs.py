"""tokenize, run and status as a user meets them: what they print, and their one line of error."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from corpora import make_corpus
from media_jobs import UNUSABLE, recipe, write_source
from omni_diffusion import cli
from omni_diffusion.corpus.storage import TEMPORARY
from omni_diffusion.pipelines.run_file import Run, RunFile, Storage


class Shell:
    """The program in this process; `code` is what it must end with."""

    def __init__(self, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self._capture, self._patch = capture, patch

    def __call__(self, *words: str, code: int = 0) -> str:
        """Standard output, or for another code than 0 standard error."""
        self._patch.setattr(sys, "argv", ["omni-diffusion", *words])
        self._capture.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = self._capture.readouterr()
        assert (end.value.code or 0) == code, err
        return err if code else out


@pytest.fixture
def omni(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(capsys, monkeypatch)


def job(folder: Path, records: int, unusable_every: int = 0) -> str:
    """A source and its recipe's file; the output is `out` beside it."""
    write_source(folder / "data", records, unusable_every)
    wanted = recipe(str(folder / "data"), str(folder / "out"))
    (folder / "job.yaml").write_text(wanted.to_yaml())
    return str(folder / "job.yaml")


def test_a_job_from_its_dry_run_to_its_retry(omni: Shell, tmp_path: Path) -> None:
    """Everything a user types in the life of one job, and what the program says to it."""
    path, out = job(tmp_path, 33, unusable_every=3), str(tmp_path / "out")
    planned = omni("tokenize", path, "--dry-run")
    assert "4 partitions (0 done), 33 records" in planned
    assert "records/s with one worker here" in planned
    assert not Path(out).exists()
    assert "no job has run there" in omni("status", out, code=1)

    # A third is unusable, in every way that there is.
    strict = ["run.reject_share=0.1", "run.reject_minimum=3"]
    error = omni("tokenize", path, "--local", *strict, code=1)
    assert error.startswith("error: ")
    assert "more than run.reject_share = 0.1 allows; the commonest reasons: " in error
    assert "failed" in omni("status", out)

    made = omni("tokenize", path, "--local", "run.reject_share=0.5")
    assert f"{out}: 33 records in = 22 samples + 11 rejects, in 4 shards" in made
    assert "rejected: " in made
    assert "33 records in = 22 samples + 11 rejects" in omni("tokenize", path, "--local")
    assert "nothing was missing" in omni("tokenize", path, "--local")
    assert "all well" in omni("verify", out, "--workers", "1")
    state = json.loads(omni("status", out, "--json"))
    assert (state["state"], state["partitions"]["done"], state["dead"]) == ("finished", 4, False)

    # The media are mended; the broken lines are not.
    good = (tmp_path / "data/1.png").read_bytes(), (tmp_path / "data/1.wav").read_bytes()
    for name in UNUSABLE:
        whole = good[0] if name.endswith(("jpg", "png")) else good[1]
        (tmp_path / "data" / name).write_bytes(whole)
    retried = omni("tokenize", path, "--local", "--retry-rejects")
    assert "33 records in = 28 samples + 5 rejects" in retried
    result = json.loads(omni("tokenize", path, "--local", "--json"))
    assert (result["corpus"]["rows"], result["corpus"]["rejects"]) == (28, 5)


def test_output_of_another_recipe_is_refused_with_the_difference(
    omni: Shell, tmp_path: Path
) -> None:
    path = job(tmp_path, 2)
    omni("tokenize", path, "--local", "source.limit=1")
    error = omni("tokenize", path, "--local", code=1)
    assert "another recipe (- there, + here):\n  -  limit: 1\n  +  limit: null\n" in error
    make_corpus(tmp_path / "foreign", [2])
    error = omni("tokenize", path, "--local", f"output={tmp_path}/foreign", code=1)
    assert "foreign/shards: files are there, but no plan.parquet of the job" in error


def test_a_wrong_recipe_or_source_is_told_before_anything_is_done(
    omni: Shell, tmp_path: Path
) -> None:
    """What was not begun can be mended: the output does not belong to the mistake."""
    path = job(tmp_path, 2)
    assert "tokenisers" in omni("tokenize", path, "tokenisers.text=demo", code=1)
    assert "none.yaml" in omni("tokenize", str(tmp_path / "none.yaml"), code=1)
    error = omni("tokenize", path, "--local", f"source.path={tmp_path}/none.jsonl", code=1)
    assert f"error: {tmp_path}/none.jsonl" in error
    error = omni("tokenize", path, "--local", "tokenizers.image=no/such", code=1)
    assert "no/such" in error
    omni("tokenize", path, "--local", f"output={tmp_path}/other")


def test_a_full_disk_stops_the_job_at_once(tmp_path: Path) -> None:
    """Trying again would not help; the message says what is full, and nothing half stays."""
    words = [sys.executable, "-m", "omni_diffusion", "tokenize", job(tmp_path, 24), "--local"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))

    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        words, env=environment, preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "the disk is full" in last
    assert not list((tmp_path / "out").rglob(f"{TEMPORARY}*"))
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert "24 records in = 24 samples + 0 rejects" in done.stdout


def test_status_tells_a_dead_run_from_one_at_work(omni: Shell, tmp_path: Path) -> None:
    counts = {"total": 9, "done": 4, "done_now": 4, "given_up": 0}
    file = RunFile(Storage(tmp_path), Run("20990101T000000.000-aaaaaa", "tokenize", "digest"))
    file.run.state, file.run.partitions = "running", counts
    file.write()
    assert ": running\n4 of 9 partitions done" in omni("status", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    file.run.pid = process.pid
    file.write()
    assert "it died" in omni("status", str(tmp_path))


def test_a_chain_says_which_step_failed(omni: Shell, tmp_path: Path) -> None:
    make_corpus(tmp_path / "a", [1])
    steps = [f"verify {tmp_path}/a", f"verify {tmp_path}/none"]
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"steps": steps}))
    error = omni("run", str(tmp_path / "chain.yaml"), code=1)
    assert f"error: step 2 of 2 (verify {tmp_path}/none) ended with exit code 1" in error
    assert "run the same command again" in error
