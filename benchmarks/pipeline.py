"""What the engine costs: a whole job on Ray against a bare loop over the same pictures.

The encoder is replaced by one that costs a fixed few milliseconds (SHA-256 of a fixed buffer, which
like a real encoder lets other threads run). The bare loop reads the same tars with `tarfile`,
decodes and resizes with the same functions, calls the same encoder and writes codes and text into
a plain tar: no checks, no spans, no sidecar, no index, one process.

    overhead_ratio     CPU seconds an image through the whole job, from the moment when all workers
                       are ready until index and manifest are written, driver, raylet and all
                       workers together, divided by those of the bare loop
    start_cpu_s        CPU seconds before that: Ray itself and the loading of models
    ramp_s             from the start of the driver's work until every worker is at work
    workers_busy_pct   share of the workers' time spent in partitions while there was enough work
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import typer

# This folder holds a module that is named as the library `tokenizers` is.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.results import tell  # noqa: E402

ENCODER_BYTES = 6_000_000
PER_TAR = 125
LOOK_EVERY_S = 5.0
RECIPE: dict[str, Any] = {
    "tokenizers": {"text": "demo", "image": "demo", "speech": "demo"},
    "pictures": {"question": 256, "answer": 256},
    "decode_threads": 1,
}


def write_source(folder: Path, images: int) -> None:
    """Tars of JPEG pictures (320 x 256) with captions, as img2dataset writes them."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for start in range(0, images, PER_TAR):
        with tarfile.open(folder / f"{start // PER_TAR:05d}.tar", "w") as archive:
            for i in range(start, min(start + PER_TAR, images)):
                small = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
                picture = Image.fromarray(small).resize((320, 256), Image.Resampling.BICUBIC)
                data = io.BytesIO()
                picture.save(data, "JPEG", quality=90)
                _put(archive, f"{i:09d}.jpg", data.getvalue())
                _put(archive, f"{i:09d}.txt", f"picture number {i}".encode())


def _put(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def encode(data: bytes) -> Any:
    """256 codes at a fixed cost."""
    digest = hashlib.sha256(_BUFFER).digest() + hashlib.sha256(data[:64]).digest()
    return np.resize(np.frombuffer(digest, np.uint16), 256) % 8192


_BUFFER = bytes(ENCODER_BYTES)


def bare_loop(source: Path, output: Path) -> tuple[int, float]:
    """Images and CPU seconds of the least that could be done."""
    import torch

    from omni_diffusion.tokenize.image.preprocess import load_picture, to_pixels

    torch.set_num_threads(1)  # as in the job's workers
    output.mkdir()
    began, count = time.process_time(), 0
    for path in sorted(source.glob("*.tar")):
        with tarfile.open(path) as archive, tarfile.open(output / path.name, "w") as shard:
            texts = {}
            for member in archive:
                file = archive.extractfile(member)
                assert file is not None
                data = file.read()
                if member.name.endswith(".txt"):
                    texts[member.name[:-4]] = data
                    continue
                pixels = to_pixels(load_picture(data), 256)
                codes = encode(pixels.numpy().tobytes()[:64])
                _put(shard, f"{member.name[:-4]}.codes", codes.astype(np.uint16).tobytes())
                count += 1
            for key, text in texts.items():
                _put(shard, f"{key}.txt", text)
    return count, time.process_time() - began


@dataclass(frozen=True)
class BenchJob:
    """The tokenization job with the encoder exchanged."""

    recipe: Any

    name = "benchmark"

    @property
    def output(self) -> str:
        return str(self.recipe.output)

    def source(self) -> Any:
        from omni_diffusion.pipelines.sources import open_source

        return open_source(self.recipe.source)

    def worker(self) -> Any:
        from omni_diffusion.pipelines.coder import Coder
        from omni_diffusion.pipelines.tokenize_worker import TokenizeWorker
        from omni_diffusion.tokenize.chat import Modality
        from omni_diffusion.tokenize.image.preprocess import load_picture, to_pixels

        def decode(data: bytes, name: str) -> Any:
            return to_pixels(load_picture(data, name=name), 256, name=name)

        def fixed(pixels: Sequence[Any]) -> list[Any]:
            return [encode(p.numpy().tobytes()[:64]) for p in pixels]

        worker = TokenizeWorker(self.recipe)
        worker._coders[Modality.IMAGE_256] = Coder(decode, fixed, 16, None)
        return worker


@dataclass
class Trace:
    """CPU and busy time of a run at the moments that matter."""

    start_cpu_s: float = 0.0
    start_rows: int = 0
    last_cpu_s: float = 0.0
    looked: float = 0.0
    steady: tuple[float, float] | None = None
    steady_end: tuple[float, float] | None = None
    began: float = 0.0

    def tick(self, run: Any) -> None:
        workers = run.workers
        if not self.start_cpu_s and workers["ready"] == workers["wanted"]:
            self.start_cpu_s, self.start_rows = tree_cpu_s() - self.began, run.rows
        left = run.partitions["total"] - run.partitions["done"]
        # Looking at all processes costs milliseconds of the driver's own time.
        if not left or time.monotonic() - self.looked > LOOK_EVERY_S:
            self.last_cpu_s, self.looked = tree_cpu_s() - self.began, time.monotonic()
        if run.ramp_s is not None and left > workers["wanted"]:
            now = (run.busy_s, run.worker_s)
            self.steady, self.steady_end = self.steady or now, now


def tree_cpu_s() -> float:
    """CPU seconds of this process and everything below it, raylet and workers included."""
    me = psutil.Process()
    total = 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def whole_job(source: Path, output: Path, workers: int) -> dict[str, float]:
    """One job in this process's Ray; figures of the module's text."""
    from omni_diffusion.pipelines.engine import run_job
    from omni_diffusion.pipelines.tokenize_recipe import TokenizeRecipe

    recipe = TokenizeRecipe.model_validate_json(
        json.dumps(
            RECIPE
            | {
                "source": {
                    "kind": "tars",
                    "path": str(source),
                    "layout": "img2dataset",
                    "source": "bench",
                    "tasks": ["t2i"],
                },
                "output": str(output),
                "run": {"ray": {"workers": workers}},
            }
        )
    )
    trace = Trace(began=tree_cpu_s())
    manifest, run = run_job(BenchJob(recipe), recipe.run, "bench", on_tick=trace.tick)
    before = time.process_time()
    assert manifest.rejects == 0, run.reasons
    assert trace.steady and trace.steady_end and run.ramp_s is not None
    busy_s, worker_s = (b - a for a, b in zip(trace.steady, trace.steady_end, strict=True))
    return {
        "images": manifest.rows - trace.start_rows,
        "start_cpu_s": trace.start_cpu_s,
        "job_cpu_s": trace.last_cpu_s - trace.start_cpu_s + (time.process_time() - before),
        "ramp_s": run.ramp_s,
        "workers_busy_pct": 100 * busy_s / worker_s,
        "wall_s": run.wall_s,
    }


def benchmark(images: int, repeats: int, workers: int) -> dict[str, Any]:
    """Both, interleaved; medians."""
    jobs, loops = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_source(folder / "first", 10)
        bare_loop(folder / "first", folder / "warm")  # imports
        write_source(folder / "source", images)
        for i in range(repeats):
            loops.append(bare_loop(folder / "source", folder / f"bare{i}")[1] / images)
            jobs.append(whole_job(folder / "source", folder / f"job{i}", workers))
    loop = median(loops)
    ratios = [j["job_cpu_s"] / j["images"] / one for j, one in zip(jobs, loops, strict=True)]
    return {
        "images": images,
        "workers": workers,
        "repeats": repeats,
        "bare_cpu_ms_per_image": round(1e3 * loop, 3),
        "job_cpu_ms_per_image": round(1e3 * loop * median(ratios), 3),
        "overhead_ratio": round(median(ratios), 3),
        "overhead_ratios": [round(ratio, 3) for ratio in ratios],
        "start_cpu_s": round(median(j["start_cpu_s"] for j in jobs), 1),
        "ramp_s": round(median(j["ramp_s"] for j in jobs), 1),
        "workers_busy_pct": round(median(j["workers_busy_pct"] for j in jobs), 1),
        "wall_s": round(median(j["wall_s"] for j in jobs), 1),
    }


def main(
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    short: bool = typer.Option(False, "--short", help="A minute: shows that everything runs."),
    keep: bool = typer.Option(False, "--keep", help="Write benchmarks/results/pipeline.json."),
    images: int = typer.Option(8000, help="Pictures."),
    workers: int = typer.Option(2, help="Worker processes."),
) -> None:
    """CPU of a whole job against a bare loop, ramp and busy share."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], before] if before else sys.path[:1])
    figures = benchmark(1000 if short else images, 1 if short else 3, workers)
    tell("pipeline", figures, keep=keep and not short, as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
