"""What the engine promises: the same corpus whoever works and whatever dies, and a cause."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from jobs import NumberJob, contents
from omni_diffusion.corpus.manifest import Manifest
from omni_diffusion.corpus.rejects import read_rejects
from omni_diffusion.corpus.storage import TEMPORARY, Storage
from omni_diffusion.corpus.verify import verify
from omni_diffusion.errors import CorpusError, FingerprintError, JobError, SourceError
from omni_diffusion.pipelines import engine
from omni_diffusion.pipelines.engine import run_job
from omni_diffusion.pipelines.pool import Event, LocalPool, NoWorker
from omni_diffusion.pipelines.run_file import Run, RunFile, last_run
from omni_diffusion.pipelines.run_recipe import RayRecipe, RunRecipe

SUPPORT = str(Path(__file__).parents[1] / "support")

pytestmark = pytest.mark.usefixtures("ray_address")


def do(job: NumberJob, *, workers: int = 0, **settings: Any) -> tuple[Manifest, Run]:
    """Run a job: with so many workers, or in this process where none are asked for."""
    retrying = settings.pop("retrying_rejects", False)
    on_tick = settings.pop("on_tick", None)
    ray = (
        RayRecipe(address="auto", workers=workers, cpus_per_worker=0.5) if workers else RayRecipe()
    )
    recipe = RunRecipe(ray=ray, **settings)
    return run_job(
        job,
        recipe,
        "digest",
        local=not workers,
        retrying_rejects=retrying,
        on_tick=on_tick,
    )


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    """The corpus of the standard job, made in one process."""
    do(NumberJob(str(tmp_path / "undisturbed")))
    return contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_makes_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, bytes], workers: int
) -> None:
    """A cluster is only faster: nothing in the corpus says how many worked on it."""
    manifest, run = do(NumberJob(str(tmp_path / "out")), workers=workers)
    assert contents(tmp_path / "out") == undisturbed
    assert run.workers["wanted"] == workers
    assert manifest.rows + manifest.rejects == 80


def test_every_record_is_a_sample_or_a_reject(tmp_path: Path) -> None:
    """In = out + rejects, and the corpus is whole."""
    manifest, run = do(NumberJob(str(tmp_path)))
    rejects = [r for n in range(8) for r in read_rejects(Storage(tmp_path), n)]
    assert (manifest.rows, manifest.rejects) == (69, 11)
    assert len(rejects) == run.rejects == 11
    assert run.reasons == {"read: a seventh": 11}
    assert not verify(str(tmp_path)).problems


def test_a_second_run_finds_nothing_to_do(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Running a finished job again costs a listing."""
    job = NumberJob(str(tmp_path / "out"), log=str(tmp_path))
    do(job)
    begun = len(list(tmp_path.glob("begun-*")))
    with patch.object(engine, "compact") as indexed:
        _, run = do(job)
    assert len(list(tmp_path.glob("begun-*"))) == begun
    indexed.assert_not_called()
    assert run.partitions == {"total": 8, "done": 8, "done_now": 0, "given_up": 0}
    assert contents(tmp_path / "out") == undisturbed


def test_what_dead_writers_left_is_cleared(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Temporary files, a tar without its sidecar, a sidecar without its tar: all made again."""
    out = tmp_path / "out"
    do(NumberJob(str(out)))
    (out / "shards/00002.parquet").unlink()
    (out / "shards/00003.tar").unlink()
    (out / "shards/00004.tar").unlink()
    (out / "shards/00004.parquet").unlink()
    (out / f"shards/{TEMPORARY}00005.tar-1").write_bytes(b"half")
    _, run = do(NumberJob(str(out)))
    assert run.partitions["done_now"] == 3
    assert contents(out) == undisturbed


def test_retried_rejects_leave_the_corpus_as_if_never_rejected(tmp_path: Path) -> None:
    """When the cause is mended, only the rejects are tried, and no trace of them stays."""
    whole = NumberJob(str(tmp_path / "whole"), mended=True)
    do(whole)
    job = NumberJob(str(tmp_path / "out"))
    do(job)
    assert contents(tmp_path / "out") != contents(tmp_path / "whole")
    manifest, run = do(replace(job, mended=True), retrying_rejects=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert (manifest.rows, manifest.rejects) == (80, 0)
    assert run.partitions["done_now"] == 8


def test_retrying_in_vain_changes_nothing(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Rejects that are rejected again for the same reason stay as they are."""
    job = NumberJob(str(tmp_path / "out"))
    do(job)
    do(job, retrying_rejects=True)
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("workers", [0, 2])
def test_a_source_that_refuses_is_asked_again(
    tmp_path: Path, undisturbed: dict[str, bytes], workers: int
) -> None:
    """A throttled store costs time, not records."""
    (tmp_path / "refuse").touch()
    job = NumberJob(str(tmp_path / "out"), log=str(tmp_path), refuse=(1, 5))

    def relent(run: Run) -> None:
        if run.failures.get("StorageError", 0) >= 2:
            (tmp_path / "refuse").unlink(missing_ok=True)

    _, run = do(job, workers=workers, tries=20, on_tick=relent)
    assert run.failures["StorageError"] >= 2
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("workers", [0, 2])
def test_a_source_that_stays_away_stops_the_job_with_the_cause(
    tmp_path: Path, undisturbed: dict[str, bytes], workers: int
) -> None:
    """The message names partition and cause; what was done stays, and a rerun ends the job."""
    (tmp_path / "refuse").touch()
    job = NumberJob(str(tmp_path / "out"), log=str(tmp_path), refuse=(3, 4, 5, 6, 7))
    with pytest.raises(JobError, match=r"part [34567].*503 SlowDown.*run the same command again"):
        do(job, workers=workers, tries=1, failed_partitions=3)
    run = last_run(Storage(job.output))
    assert run is not None
    assert run.state == "failed"
    assert 3 <= len(run.given_up) <= 5
    assert run.partitions["done"] <= 3
    (tmp_path / "refuse").unlink()
    do(job, workers=workers)
    assert contents(tmp_path / "out") == undisturbed


def test_a_partition_that_kills_its_workers_is_given_up_and_the_rest_is_done(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """One poisoned partition does not take the others with it."""
    (tmp_path / "die").touch()
    job = NumberJob(str(tmp_path / "out"), log=str(tmp_path), die=(2,))
    with pytest.raises(JobError, match=r"1 partitions failed 2 times.*is 2 \(part 2"):
        do(job, workers=2, tries=2)
    run = last_run(Storage(job.output))
    assert run is not None
    assert (run.failures["lost"], run.partitions["done"]) == (2, 7)
    (tmp_path / "die").unlink()
    do(job, workers=2)
    assert contents(tmp_path / "out") == undisturbed


def test_a_worker_lost_between_its_commit_and_its_answer_costs_nothing(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """The next one sees that the shard is there: nothing that was committed is done twice."""
    (tmp_path / "late").touch()
    job = NumberJob(str(tmp_path / "out"), log=str(tmp_path), die_late=True)
    manifest, run = do(job, workers=1)
    assert sum(run.failures.values()) <= 1
    assert len(list(tmp_path.glob("begun-*"))) == run.partitions["done_now"] == 8
    assert (run.rows, run.rejects) == (manifest.rows, manifest.rejects) == (69, 11)
    assert run.reasons == {"read: a seventh": 11}
    assert contents(tmp_path / "out") == undisturbed


@dataclass(slots=True)
class FrailPool(LocalPool):
    """So many workers die while they load, of four that are wanted."""

    deaths: int = 0
    wanted: int = 4

    def wait(self, timeout_s: float, deadline_s: float) -> list[Event]:
        if self.deaths:
            self.deaths -= 1
            return [NoWorker("", "a worker process died while it loaded: spot")]
        return LocalPool.wait(self, timeout_s, deadline_s)


@pytest.mark.parametrize(("deaths", "survives"), [(19, True), (20, False)])
def test_a_crowd_of_workers_may_die_while_they_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: int, survives: bool
) -> None:
    """All spot nodes may go at one moment, again and again; a fault of ours ends the job."""
    monkeypatch.setattr(engine, "LocalPool", partial(FrailPool, deaths=deaths))
    if survives:
        do(NumberJob(str(tmp_path)))
        return
    with pytest.raises(JobError, match=r"20 workers in a row .* while it loaded: spot"):
        do(NumberJob(str(tmp_path)))


def test_a_worker_that_hangs_is_replaced(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """After the deadline its partition is begun again by another."""
    (tmp_path / "hang").touch()
    job = NumberJob(str(tmp_path / "out"), log=str(tmp_path), hang=(2,))

    def let_go(run: Run) -> None:
        if run.failures.get("lost"):
            (tmp_path / "hang").unlink(missing_ok=True)

    _, run = do(job, workers=2, deadline_s=3, tries=9, on_tick=let_go)
    assert run.failures["lost"]
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("workers", [0, 2])
def test_missing_weights_stop_the_job_at_once(tmp_path: Path, workers: int) -> None:
    """What no retry can mend is told before any work is done."""
    with pytest.raises(JobError, match="weights/none: not there; download them first"):
        do(NumberJob(str(tmp_path / "out"), no_weights=True), workers=workers)
    run = last_run(Storage(tmp_path / "out"))
    assert run is not None
    assert run.state == "failed"


def test_other_tokenizers_than_before_are_refused(tmp_path: Path) -> None:
    """Half a corpus with one tokenizer and half with another cannot come about."""
    job = NumberJob(str(tmp_path))
    do(job)
    (tmp_path / "shards/00003.parquet").unlink()
    with pytest.raises(FingerprintError, match=r"image other, but .*magvit2-demo-1"):
        do(replace(job, fingerprint="other"))


def test_too_many_rejects_stop_the_job_with_the_commonest_reasons(tmp_path: Path) -> None:
    """A broken source is noticed early, not after a night."""
    with pytest.raises(JobError, match=r"rejected, more than .*read: a seventh \(\d+\)"):
        do(NumberJob(str(tmp_path)), reject_share=0.1, reject_minimum=3)


def test_a_source_that_has_changed_is_noticed(tmp_path: Path) -> None:
    """The plan says how many records a partition has."""
    out = tmp_path / "out"
    do(NumberJob(str(out)))
    (out / "shards/00003.parquet").unlink()
    with pytest.raises(JobError, match="9 records, but 10 when the job was planned"):
        do(NumberJob(str(out), rows=9), tries=1)


def test_a_shard_whose_rejects_are_gone_is_not_passed_over(tmp_path: Path) -> None:
    """In = out + rejects holds of what is there, not only of what was counted."""
    do(NumberJob(str(tmp_path)))
    (tmp_path / "rejects/00003.parquet").unlink()
    (tmp_path / "corpus.json").unlink()  # as if the job had not come so far
    with pytest.raises(CorpusError, match=r"rejects/00003.parquet: missing, .* counts 2 rejects"):
        do(NumberJob(str(tmp_path)))
    run = last_run(Storage(tmp_path))
    assert run is not None
    assert run.state == "failed"
    (tmp_path / "shards/00003.parquet").unlink()
    manifest, _ = do(NumberJob(str(tmp_path)))
    assert (manifest.rows, manifest.rejects) == (69, 11)


def test_a_cluster_that_is_gone_is_told_at_once(tmp_path: Path) -> None:
    """Ray itself would go on asking for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code = f"""
from jobs import NumberJob
from omni_diffusion.pipelines.engine import run_job
from omni_diffusion.pipelines.run_recipe import RayRecipe, RunRecipe
run_job(NumberJob({str(tmp_path)!r}), RunRecipe(ray=RayRecipe(address="127.0.0.1:{port}")), "")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": SUPPORT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"JobError: no Ray cluster at 127.0.0.1:{port}: nothing answers" in done.stderr
    run = last_run(Storage(tmp_path))
    assert run is not None
    assert run.state == "failed"


def test_an_empty_source_is_an_error(tmp_path: Path) -> None:
    """A job over nothing is a wrong path, not a success."""
    with pytest.raises(SourceError, match="holds no records"):
        do(NumberJob(str(tmp_path), partitions=0))


def test_the_output_of_a_larger_plan_is_refused(tmp_path: Path) -> None:
    """Shards of another job are not taken for this one's."""
    do(NumberJob(str(tmp_path / "a"), partitions=3))
    do(NumberJob(str(tmp_path / "b"), partitions=2))
    (tmp_path / "a/plan.parquet").write_bytes((tmp_path / "b/plan.parquet").read_bytes())
    with pytest.raises(JobError, match="the plan has only 2 partitions"):
        do(NumberJob(str(tmp_path / "a"), partitions=3))


def unended_run(output: Path, **changes: Any) -> RunFile:
    """The file of a run that has not said how it ended, last heard of in 2020."""
    run = Run("20990101T000000-aaaaaa", "numbers", "digest", state="running")
    file = RunFile(Storage(output), run)
    for name, value in changes.items():
        setattr(run, name, value)
    file.write()
    path = output / "runs/20990101T000000-aaaaaa.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"updated": "2020-01-01T00:00:00.000+00:00"}))
    return file


def test_two_jobs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    """A second driver is told which process is at work, however long that has said nothing."""
    unended_run(tmp_path)
    with pytest.raises(JobError, match=rf"process {os.getpid()} on"):
        do(NumberJob(str(tmp_path)))


def test_a_number_that_another_process_bears_now_is_not_the_run(tmp_path: Path) -> None:
    """Systems use process numbers again."""
    unended_run(tmp_path, pid_since="another moment")
    do(NumberJob(str(tmp_path)))


def test_a_run_on_another_machine_counts_while_it_is_heard_of(tmp_path: Path) -> None:
    """Its process cannot be asked, so its file is."""
    file = unended_run(tmp_path, host="elsewhere")
    do(NumberJob(str(tmp_path)))
    file.write()
    with pytest.raises(JobError, match="on elsewhere"):
        do(NumberJob(str(tmp_path)))


def test_a_dead_run_does_not_bar_the_next(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """After a kill the same command goes on without waiting."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    unended_run(tmp_path / "out", pid=process.pid)
    do(NumberJob(str(tmp_path / "out")))
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_job_ends_in_order_and_goes_on_later(
    tmp_path: Path,
    undisturbed: dict[str, bytes],
    workers: int,
    number: signal.Signals,
) -> None:
    """Ctrl-C and a batch system's SIGTERM: what is at work is finished, nothing else begun."""
    job = NumberJob(str(tmp_path / "out"), seconds=0.01)

    def interrupt(run: Run) -> None:
        if run.partitions["done_now"] and run.state == "running":
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        do(job, workers=workers, on_tick=interrupt)
    run = last_run(Storage(job.output))
    assert run is not None
    assert run.state == "stopped"
    assert 1 <= run.partitions["done"] < 8
    do(job, workers=workers)
    assert contents(tmp_path / "out") == undisturbed
