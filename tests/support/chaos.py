"""Kill at random, begin again, compare: the engine's main promise put to the test.

    python tests/support/chaos.py --kills 100 --seed 7 --log benchmarks/results/chaos.log

A job runs on a real Ray of three nodes while worker processes, a whole node and the driver are
killed with SIGKILL at random moments. Afterwards the corpus must be the undisturbed one, byte for
byte, with no temporary file left, and no partition may have been begun after it was committed.
"""

from __future__ import annotations

import argparse
import json
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

from jobs import NumberJob, contents  # noqa: E402
from omni_diffusion.corpus.storage import TEMPORARY  # noqa: E402
from omni_diffusion.pipelines.engine import run_job  # noqa: E402
from omni_diffusion.pipelines.run_recipe import RayRecipe, RunRecipe  # noqa: E402

DRIVER = """
import sys
sys.path.insert(0, {support!r})
from jobs import NumberJob
from omni_diffusion.pipelines.engine import run_job
from omni_diffusion.pipelines.run_recipe import RayRecipe, RunRecipe
ray = RayRecipe(address={address!r}, actors={actors}, cpus_per_actor=0.5)
run_job(NumberJob(**{job!r}), RunRecipe(ray=ray, tries=1000), "digest")
"""

_WORKER = "ray::_Actor"


@dataclass
class Chaos:
    """One trial.

    Attributes:
        cluster: `ray.cluster_utils.Cluster` with a head and two more nodes.
        folder: for output and notes.
        kills: how many.
        seed: decides victims and moments.
        say: called with a line for every event.
        partitions: of the job.
        seconds: that a record takes; with ten records a partition.
    """

    cluster: Any
    folder: Path
    kills: int
    seed: int
    say: Callable[[str], None]
    partitions: int = 120
    seconds: float = 0.02
    actors: int = 3
    killed: Counter[str] = field(default_factory=Counter)
    done_before: int = 0
    #: Shards there when a driver was last killed.

    def job(self, output: str, log: str = "") -> dict[str, Any]:
        """Arguments of the job."""
        return {
            "output": str(self.folder / output),
            "partitions": self.partitions,
            "seconds": self.seconds,
            "log": log,
        }

    def run(self) -> None:
        """Disturb a job until it has ended all the same.

        Raises:
            AssertionError: the promise was broken.
        """
        chance = random.Random(self.seed)
        notes = self.folder / "notes"
        notes.mkdir()
        driver = self._driver(notes)
        started = time.monotonic()
        while True:
            code = self._wait(driver, chance.uniform(0.2, 1.6))
            if code == 0:
                break
            if code is not None:
                assert code == -signal.SIGKILL, f"the driver ended with {code}"
                driver = self._driver(notes)
            elif self.killed.total() < self.kills:
                kind = self._victim(chance)
                if self._kill(kind, driver, chance):
                    self.killed[kind] += 1
                    at = time.monotonic() - started
                    count, done = self.killed.total(), self._done()
                    self.say(f"{at:7.1f} s  kill {count:3d}: {kind:6s} ({done} done)")
        self.say(f"ended after {time.monotonic() - started:.1f} s and {dict(self.killed)}")
        self._check(notes)

    def _done(self) -> int:
        return len(list((self.folder / "out/shards").glob("[0-9]*.parquet")))

    def _victim(self, chance: random.Random) -> str:
        """Workers most often; a node and the driver are sure to be hit in time."""
        left = self.kills - self.killed.total()
        missing = [kind for kind in ("node", "driver", "worker") if not self.killed[kind]]
        if left <= len(missing):
            return missing[0]
        return chance.choices(("worker", "driver", "node"), (6, 2, 2))[0]

    def _kill(self, kind: str, driver: subprocess.Popen[bytes], chance: random.Random) -> bool:
        if kind == "driver":
            # Mostly drivers that have got somewhere; now and then one that has just begun.
            if self._done() <= self.done_before and chance.random() < 0.8:
                return False
            self.done_before = self._done()
            driver.kill()
            return True
        if kind == "node":
            nodes = [node for node in self.cluster.list_all_nodes() if not node.head]
            self.cluster.remove_node(chance.choice(nodes), allow_graceful=False)
            self.cluster.add_node(num_cpus=2)
            return True
        workers = [p for p in psutil.process_iter() if _named(p, _WORKER)]
        if not workers:
            return False
        try:
            chance.choice(workers).kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def _driver(self, notes: Path) -> subprocess.Popen[bytes]:
        job = self.job("out", str(notes))
        code = DRIVER.format(
            support=str(SUPPORT), address=self.cluster.address, actors=self.actors, job=job
        )
        with (self.folder / "driver.log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log)

    def _wait(self, driver: subprocess.Popen[bytes], timeout_s: float) -> int | None:
        try:
            return driver.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def _check(self, notes: Path) -> None:
        run_job(NumberJob(**self.job("plain")), RunRecipe(ray=RayRecipe()), "digest", local=True)
        ours, plain = contents(self.folder / "out"), contents(self.folder / "plain")
        assert ours.keys() == plain.keys(), sorted(ours.keys() ^ plain.keys())
        assert ours == plain, [name for name in ours if ours[name] != plain[name]]
        left = list((self.folder / "out").rglob(f"{TEMPORARY}*"))
        assert not left, left
        again = self._begun_after_commit(notes)
        assert not again, f"begun after they had been committed: {again}"
        begun = len(list(notes.glob("begun-*")))
        self.say(
            f"the same {len(ours)} files as undisturbed, no temporary file, nothing begun after "
            f"its commit; {begun} partitions begun for {self.partitions} commits"
        )

    def _begun_after_commit(self, notes: Path) -> list[int]:
        """Partitions that were begun later than their sidecar was published."""
        shards = self.folder / "out/shards"
        committed = {int(p.stem): p.stat().st_mtime_ns for p in shards.glob("[0-9]*.parquet")}
        again = []
        for note in notes.glob("begun-*"):
            _, number, _, moment = note.name.split("-")
            if int(moment) > committed[int(number)]:
                again.append(int(number))
        return again


def _named(process: psutil.Process, title: str) -> bool:
    try:
        return any(title in part for part in process.cmdline())
    except psutil.Error:
        return False


def main() -> None:
    """A long trial from the command line."""
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
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    say(f"{arguments.kills} kills, seed {arguments.seed}, {json.dumps(head)} and two more nodes")
    with tempfile.TemporaryDirectory() as folder:
        partitions = max(120, 6 * arguments.kills)
        trial = Chaos(cluster, Path(folder), arguments.kills, arguments.seed, say, partitions)
        trial.run()
    if arguments.log:
        arguments.log.write_text("\n".join(lines) + "\n")
    cluster.shutdown()


if __name__ == "__main__":
    main()
