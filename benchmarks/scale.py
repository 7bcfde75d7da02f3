"""A hundred thousand partitions through the real driver, by simulation.

Real Ray, real workers, real commits; only the work is missing: every partition is one record
without media, its shard one small sample. The output lies in memory (/dev/shm) where there is such
a place, since the disk is not what is asked about.

    driver_rss_mb               largest resident set of the driver process, 100,000 partitions
    resume_scan_s               time to find out what is missing when 99,000 of 100,000 are done
    driver_cpu_ms_first, _last  driver's CPU an partition in the first and the last tenth
    flat_ratio                  the last divided by the first
    cost_growth                 driver's CPU a partition in the run of 100,000, divided by that of a
                                run of 10,000
    index_s                     time to make index and manifest of all shards
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

# This folder holds a module that is named as the library `tokenizers` is.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.results import tell  # noqa: E402

FINGERPRINTS = {"text": "simulated"}


@dataclass(frozen=True)
class SimulatedJob:
    """As many partitions as are asked for, one record each."""

    output: str
    partitions: int
    name: str = "simulated"

    def source(self) -> SimulatedSource:
        return SimulatedSource(self.partitions)

    def worker(self) -> SimulatedWorker:
        return SimulatedWorker()


@dataclass(frozen=True)
class SimulatedSource:
    count: int

    def partitions(self) -> Iterator[Any]:
        from omni_diffusion.pipelines.sources.partition import Partition

        for number in range(self.count):
            yield Partition(number=number, name=f"simulated {number}", rows=1, size=100)

    def read(self, partition: Any) -> Iterator[Any]:
        from omni_diffusion.corpus.media_record import MediaRecord
        from omni_diffusion.corpus.record import Record

        key = f"simulated-{partition.number:06d}"
        record = Record.from_dict({"messages": [{"role": "user", "content": "a"}]}, key)
        yield MediaRecord(key=key, record=record)


class SimulatedWorker:
    fingerprints: Mapping[str, str] = FINGERPRINTS

    def samples(self, items: Iterator[Any]) -> Iterator[Any]:
        import numpy as np

        from omni_diffusion.corpus.sample import SPAN, build_sample

        spans = np.array([(0, 1, 0, 0, 4, 0)], SPAN)
        for item in items:
            yield build_sample(item.key, item.record, {"text": np.arange(4)}, spans)

    def commit(self) -> None:
        pass


def drive(output: str, partitions: int, workers: int) -> dict[str, Any]:
    """One run in this process: what the driver used, and when."""
    from omni_diffusion.pipelines.engine import run_job
    from omni_diffusion.pipelines.run_recipe import RayRecipe, RunRecipe

    marks: list[tuple[int, float, float]] = []
    index_began: list[float] = []

    def tick(run: Any) -> None:
        done = run.partitions["done_now"]
        if done and (not marks or done - marks[-1][0] >= partitions // 20 or done == partitions):
            marks.append((done, time.process_time(), time.monotonic()))

    def index(_done: int, _total: int) -> None:
        if not index_began:
            index_began.append(time.monotonic())

    recipe = RunRecipe(ray=RayRecipe(workers=workers, cpus_per_worker=0.5))
    manifest, run = run_job(
        SimulatedJob(output, partitions), recipe, "scale", on_tick=tick, on_index=index
    )
    assert manifest.rows == partitions
    return {
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "marks": marks,
        "scan_s": run.scan_s,
        "index_s": time.monotonic() - index_began[0],
        "wall_s": run.wall_s,
    }


def in_process(output: Path, partitions: int, workers: int) -> dict[str, Any]:
    """`drive` in a process of its own."""
    words = [sys.executable, __file__, "--drive", str(output)]
    words += ["--partitions", str(partitions), "--workers", str(workers)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def forget(output: Path, partitions: int, missing: int) -> None:
    """Remove every n-th shard, as if it had never been made."""
    for number in range(0, partitions, partitions // missing):
        for suffix in ("tar", "parquet"):
            (output / f"shards/{number:05d}.{suffix}").unlink()


def cpu_ms(marks: list[list[float]], first: int, last: int) -> float:
    """Driver's CPU milliseconds a partition between two marks."""
    (done_a, cpu_a, _), (done_b, cpu_b, _) = marks[first], marks[last]
    return 1e3 * (cpu_b - cpu_a) / (done_b - done_a)


def benchmark(partitions: int, workers: int) -> dict[str, Any]:
    """A small run, a large one, and one that resumes."""
    place = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=place if place.is_dir() else None))
    try:
        small = in_process(folder / "small", partitions // 10, workers)
        large = in_process(folder / "large", partitions, workers)
        forget(folder / "large", partitions, partitions // 100)
        resumed = in_process(folder / "large", partitions, workers)
    finally:
        shutil.rmtree(folder)
    marks = large["marks"]
    first, last = cpu_ms(marks, 0, 2), cpu_ms(marks, -3, -1)
    whole = cpu_ms(marks, 0, -1)
    return {
        "partitions": partitions,
        "workers": workers,
        "driver_rss_mb": round(large["rss_mb"]),
        "resume_scan_s": resumed["scan_s"],
        "driver_cpu_ms_first": round(first, 3),
        "driver_cpu_ms_last": round(last, 3),
        "flat_ratio": round(last / first, 3),
        "cost_growth": round(whole / cpu_ms(small["marks"], 0, -1), 3),
        "index_s": round(large["index_s"], 1),
        "partitions_per_s": round(partitions / large["wall_s"], 1),
        "wall_s": round(large["wall_s"]),
    }


def main(
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    short: bool = typer.Option(False, "--short", help="A minute: shows that everything runs."),
    keep: bool = typer.Option(False, "--keep", help="Write benchmarks/results/scale.json."),
    partitions: int = typer.Option(100_000, help="Partitions of the large run."),
    workers: int = typer.Option(2, help="Worker processes."),
    drive_: str = typer.Option("", "--drive", hidden=True),
) -> None:
    """Driver memory, resumption and cost a partition of a very long job."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], str(Path(__file__).parent)])
    if drive_:
        sys.path.insert(1, str(Path(__file__).parent))
        from benchmarks import scale

        print(json.dumps(scale.drive(drive_, partitions, workers)))
        return
    figures = benchmark(1000 if short else partitions, workers)
    tell("scale", figures, keep=keep and not short, as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
