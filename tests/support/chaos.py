"""Kill at random, begin again, compare: the engine's main promise put to the test.

    python tests/support/chaos.py --kills 100 --seed 7 --log benchmarks/results/chaos.log

A job runs on a real Ray of three nodes while worker processes, whole nodes and the driver are
killed with SIGKILL at random moments. Afterwards the corpus must be the undisturbed one, byte for
byte, with no temporary file left, and no partition may have been begun after it was committed.

Kills and progress wait for each other, so that neither a fast machine ends the job before the last
kill nor a loaded one sees all kills before its first shard: a kill comes at a random moment after
a random number of further beginnings and commits, and each kill opens a few more partitions.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parent
sys.path.insert(0, str(SUPPORT))

import psutil  # noqa: E402

from jobs import NumberJob, contents, open_gate  # noqa: E402
from omni_diffusion.corpus.storage import TEMPORARY  # noqa: E402
from omni_diffusion.pipelines.engine import run_job  # noqa: E402
from omni_diffusion.pipelines.run_recipe import RayRecipe, RunRecipe  # noqa: E402
from ray_nodes import add_node, start_cluster  # noqa: E402

DRIVER = """
import sys
sys.path.insert(0, {support!r})
from jobs import NumberJob
from omni_diffusion.pipelines.engine import run_job
from omni_diffusion.pipelines.run_recipe import RayRecipe, RunRecipe
ray = RayRecipe(address={address!r}, workers={workers}, cpus_per_worker=0.5)
run_job(NumberJob(**{job!r}), RunRecipe(ray=ray, tries=1000), "digest")
"""

SHARES = {"worker": 0.7, "driver": 0.15, "node": 0.15}
"""Of the kills; each kind is hit at least once."""

PER_KILL = 3
"""Partitions that a kill opens."""

_WORKER = "ray::_Actor"
_NO_PROGRESS_S = 30.0
_NO_CLUSTER = "no Ray cluster at"
_TOLERANCE_NS = 250_000_000
"""Between a worker's look for the shard and its note, another may commit; clocks are coarse too.
What is begun again after a loss or by a new driver is so at least half a second later."""


@dataclass
class Chaos:
    """One trial.

    Attributes:
        cluster: `ray.cluster_utils.Cluster` with a head and two more nodes, for this alone.
        folder: for output and notes.
        kills: how many.
        seed: decides victims and moments.
        say: called with a line for every event.
        workers: of the job.
    """

    cluster: Any
    folder: Path
    kills: int
    seed: int
    say: Callable[[str], None]
    workers: int = 3
    killed: Counter[str] = field(default_factory=Counter)
    drivers: int = 0

    @property
    def partitions(self) -> int:
        """Of the job: as many as the kills open."""
        return PER_KILL * (self.kills + 1)

    def job(self, output: str, log: str = "") -> dict[str, Any]:
        """Arguments of the job."""
        return {
            "output": str(self.folder / output),
            "partitions": self.partitions,
            "seconds": 0.01,
            "log": log,
            "gated": bool(log),
        }

    def run(self) -> None:
        """Disturb a job until it has ended all the same.

        Raises:
            AssertionError: the promise was broken.
        """
        chance = random.Random(self.seed)
        self.notes.mkdir()
        open_gate(self.notes, PER_KILL)
        self.driver, started = self._new_driver(), time.monotonic()
        for number, kind in enumerate(self._victims(chance), 1):
            self._wait_for_progress(chance.randint(0, 4))
            time.sleep(chance.uniform(0, 0.3))
            self._kill(kind, chance)
            self.killed[kind] += 1
            at, done = time.monotonic() - started, self._done()
            self.say(f"{at:7.1f} s  kill {number:3d}: {kind:6s} ({done} done)")
            open_gate(self.notes, PER_KILL * (number + 1))
        while (code := self.driver.wait()) != 0:
            self._begin_again(code)
        self.say(f"ended after {time.monotonic() - started:.1f} s and {dict(self.killed)}")
        self._check()

    @property
    def notes(self) -> Path:
        """Where the workers note what they begin."""
        return self.folder / "notes"

    def _victims(self, chance: random.Random) -> list[str]:
        counts = {kind: max(1, int(share * self.kills)) for kind, share in SHARES.items()}
        kinds = [kind for kind, count in counts.items() for _ in range(count)]
        kinds += ["worker"] * (self.kills - len(kinds))
        chance.shuffle(kinds)
        return kinds

    def _wait_for_progress(self, steps: int) -> None:
        """Until so many more partitions were begun or committed, or all that may be are."""
        before, since = self._progress(), time.monotonic()
        while self._progress() - before < steps and self._done() < self._open():
            if (code := self.driver.poll()) is not None:
                self._begin_again(code)
            if time.monotonic() - since > _NO_PROGRESS_S:
                return
            time.sleep(0.02)

    def _progress(self) -> int:
        return len(list(self.notes.glob("begun-*"))) + self._done()

    def _done(self) -> int:
        return len(list((self.folder / "out/shards").glob("[0-9]*.parquet")))

    def _open(self) -> int:
        return min(self.partitions, PER_KILL * (self.killed.total() + 1))

    def _kill(self, kind: str, chance: random.Random) -> None:
        if kind == "driver":
            self.driver.kill()
            self._begin_again(self.driver.wait())
        elif kind == "node":
            nodes = sorted(self.cluster.worker_nodes, key=lambda node: node.unique_id)
            self.cluster.remove_node(chance.choice(nodes), allow_graceful=False)
            add_node(self.cluster)
        else:
            while not self._kill_worker(chance):
                if (code := self.driver.poll()) is not None:
                    self._begin_again(code)
                time.sleep(0.02)

    def _kill_worker(self, chance: random.Random) -> bool:
        """Kill one worker of this cluster: others on this machine are none of our business."""
        workers = []
        for node in self.cluster.list_all_nodes():
            for raylet in node.all_processes.get("raylet", ()):
                with _gone_is_fine():
                    workers += psutil.Process(raylet.process.pid).children()
        workers = [process for process in workers if _named(process, _WORKER)]
        if workers:
            with _gone_is_fine():
                chance.choice(sorted(workers, key=lambda process: process.pid)).kill()
                return True
        return False

    def _new_driver(self) -> subprocess.Popen[bytes]:
        self.drivers += 1
        code = DRIVER.format(
            support=str(SUPPORT),
            address=self.cluster.address,
            workers=self.workers,
            job=self.job("out", str(self.notes)),
        )
        with self._log().open("wb") as log:
            return subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log)

    def _log(self) -> Path:
        return self.folder / f"driver-{self.drivers}.log"

    def _begin_again(self, code: int) -> None:
        """The same command once more, after a driver was killed; nothing else may end one."""
        if code != -signal.SIGKILL:
            last = self._log().read_text(errors="replace").strip().rpartition("\n")[2]
            # A machine so loaded that Ray does not answer in time: a user tries again, too.
            assert _NO_CLUSTER in last, f"the driver ended with {code}: {last}"
            self.say(f"a driver could not reach the cluster: {last}")
        self.driver = self._new_driver()

    def _check(self) -> None:
        run_job(NumberJob(**self.job("plain")), RunRecipe(ray=RayRecipe()), "digest", local=True)
        ours, plain = contents(self.folder / "out"), contents(self.folder / "plain")
        assert ours.keys() == plain.keys(), sorted(ours.keys() ^ plain.keys())
        differing = [name for name in ours if ours[name] != plain[name]]
        assert not differing, differing
        left = list((self.folder / "out").rglob(f"{TEMPORARY}*"))
        assert not left, left
        again = self._begun_after_commit()
        assert not again, f"begun after they had been committed: {again}"
        begun = len(list(self.notes.glob("begun-*")))
        self.say(
            f"the same {len(ours)} files as undisturbed, no temporary file, nothing begun after "
            f"its commit; {begun} partitions begun for {self.partitions} commits"
        )

    def _begun_after_commit(self) -> list[str]:
        """Partitions that were begun later than their sidecar appeared.

        A link sets the time of status change; that of modification is older by the sync between.
        """
        shards = self.folder / "out/shards"
        committed = {int(p.stem): p.stat().st_ctime_ns for p in shards.glob("[0-9]*.parquet")}
        again = []
        for note in self.notes.glob("begun-*"):
            _, number, _, moment = note.name.split("-")
            late_ns = int(moment) - committed[int(number)]
            if late_ns > _TOLERANCE_NS:
                again.append(f"{int(number)} ({late_ns / 1e9:.2f} s later)")
        return sorted(again)


class _gone_is_fine:
    """A process may be gone by the time that it is looked at."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        return isinstance(error, psutil.Error)


def _named(process: psutil.Process, title: str) -> bool:
    with _gone_is_fine():
        return any(title in part for part in process.cmdline())
    return False


def main() -> None:
    """A trial from the command line; one line an event, and on failure one that says why."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="also write the lines to this file")
    arguments = parser.parse_args()
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["PYTHONPATH"] = str(SUPPORT)
    cluster = start_cluster(more_nodes=2)
    say(f"{arguments.kills} kills, seed {arguments.seed}, three Ray nodes of two CPUs")
    with tempfile.TemporaryDirectory() as folder:
        trial = Chaos(cluster, Path(folder), arguments.kills, arguments.seed, say)
        try:
            trial.run()
        except AssertionError as error:
            say(f"BROKEN: {error}")
        finally:
            trial.driver.kill()
            trial.driver.wait()
            cluster.shutdown()
    if arguments.log:
        arguments.log.write_text("\n".join(lines) + "\n")
    sys.exit(int(lines[-1].startswith("BROKEN")))


if __name__ == "__main__":
    main()
