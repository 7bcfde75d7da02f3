"""Planning and loading: time to the first batch of a large index, memory, fill, remote rate.

The corpus follows the mix of the corpus benchmark: 20-200 text ids, a picture of 256 or 1,024 codes
in four of five samples, 25-400 speech codes in most. One row group of the index (122,880 samples in
15 real shards) is made sample by sample; a larger index repeats it under other shard numbers, whose
tars are hard links. Every measurement runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import typer

# This folder holds a module that is named as the library `tokenizers` is.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.processes import in_process, peak_rss_mb, run_task  # noqa: E402
from benchmarks.results import tell  # noqa: E402

SEED = 7
SHARD_ROWS = 8192
SHARDS_PER_GROUP = 15
CACHE_SHARDS = 8
REMOTE_SHARDS = 14
FIRST_RUNS = 3

Fields = dict[str, Any]


def synthetic(number: int) -> Any:
    """A sample of the mix, in the chat layout of the demo tokenizer."""
    from omni_diffusion.corpus.record import Record
    from omni_diffusion.corpus.sample import build_sample
    from omni_diffusion.tokenize.chat import Modality
    from omni_diffusion.tokenize.spans import to_corpus

    rng = np.random.default_rng((SEED, number))
    text = rng.integers(0, 4000, rng.integers(20, 201))
    rows = [(0, 1, Modality.TEXT, 0, len(text))]
    streams: Fields = {"text": text}
    answer = ""
    if rng.random() < 0.8:
        codes = int(rng.choice([256, 1024]))
        kind = Modality.IMAGE_256 if codes == 256 else Modality.IMAGE_512
        streams["image256" if codes == 256 else "image512"] = rng.integers(0, 8192, codes)
        rows.append((1, 2, kind, 0, codes))
        answer += "<|image|>"
    if rng.random() < 0.88:
        streams["speech"] = rng.integers(0, 16384, rng.integers(25, 401))
        rows.append((1, 2, Modality.SPEECH, 0, len(streams["speech"])))
        answer += "<|audio|>"
    if not answer:  # the second half of the text is the answer
        half = len(text) // 2
        rows = [(0, 1, Modality.TEXT, 0, half), (1, 2, Modality.TEXT, half, len(text) - half)]
    record = {
        "messages": [
            {"role": "user", "content": f"Describe number {number} in one short sentence."},
            {"role": "assistant", "content": answer or "An answer."},
        ],
        "images": [f"img/{number:08d}.jpg"] * answer.count("<|image|>"),
        "audios": [f"audio/{number:08d}.flac"] * answer.count("<|audio|>"),
        "task": "t2i",
        "source": "synthetic",
    }
    key = f"s{number:08d}"
    spans = to_corpus(np.array(rows, np.int32))
    return build_sample(key, Record.from_dict(record, key), streams, spans)


def make_group(folder: Path, shards: int, shard_rows: int) -> None:
    """A real corpus of some shards."""
    from omni_diffusion.corpus.index import compact
    from omni_diffusion.corpus.shard import write_shard
    from omni_diffusion.corpus.storage import Storage

    storage = Storage(folder)
    for number in range(shards):
        rows = range(number * shard_rows, (number + 1) * shard_rows)
        write_shard(storage, number, map(synthetic, rows), {"image": "synthetic"})
    compact(storage)


def repeat_group(small: Path, large: Path, groups: int) -> int:
    """An index that repeats a corpus's rows, and hard links for its tars; returns its rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from omni_diffusion.corpus.index import INDEX
    from omni_diffusion.corpus.manifest import read_manifest, write_manifest
    from omni_diffusion.corpus.sidecar import PARQUET_SETTINGS, SCHEMA, tar_name
    from omni_diffusion.corpus.storage import Storage

    (large / "shards").mkdir(parents=True)
    table = pq.read_table(small / INDEX)
    shards = table["shard"].to_numpy()
    count = int(shards.max()) + 1
    place = table.schema.get_field_index("shard")
    with pq.ParquetWriter(large / INDEX, SCHEMA, **PARQUET_SETTINGS) as writer:
        for group in range(groups):
            moved = pa.array(shards + group * count, pa.int32())
            part = table.set_column(place, SCHEMA.field("shard"), moved)
            writer.write_table(part, row_group_size=table.num_rows)
            for shard in range(count):
                os.link(small / tar_name(shard), large / tar_name(group * count + shard))
    found = read_manifest(Storage(small))
    rows: int = table.num_rows * groups
    write_manifest(Storage(large), replace(found, shards=count * groups, rows=rows))
    return rows


# --- what runs in a process of its own -----------------------------------------------------------


def recipe_of(root: str, cache: str | None = None, limit_mb: int = 1, **changes: Any) -> Any:
    from omni_diffusion.training.recipe import DataRecipe

    values: Fields = {"sources": {"mix": {"corpus": root}}, "tokenizer": "demo"}
    values["cache"] = {"folder": cache, "limit_mb": limit_mb} if cache else None
    return DataRecipe.model_validate(values | changes)


def task_first_batch(folder: str) -> Fields:
    """Everything from the recipe to the first batch, imports included."""
    wall, cpu = time.perf_counter(), time.process_time()
    from omni_diffusion.training.loader import Loader
    from omni_diffusion.training.opening import open_data
    from omni_diffusion.training.recipe import MaskingRecipe

    data = open_data(recipe_of(folder))
    opened_s = time.perf_counter() - wall
    data.plan.step(0)
    planned_s, plan_rss_mb = time.perf_counter() - wall, peak_rss_mb()
    with Loader(data, MaskingRecipe()) as loader:
        batch = loader.batch(0)
        first_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        far = 10_000_000 // max(len(batch.samples), 1)
        began = time.perf_counter()
        loader.batch(far)
        far_s = time.perf_counter() - began
    return {
        "open_s": opened_s,
        "first_step_planned_s": planned_s,
        "first_batch_s": first_s,
        "first_batch_cpu_s": cpu_s,
        "plan_rss_mb": plan_rss_mb,
        "batch_rss_mb": peak_rss_mb(),
        "far_step": far,
        "far_batch_s": far_s,
    }


def task_plan(folder: str, samples: int) -> Fields:
    """CPU time of planning a stretch of steps, and how full their rows are."""
    from omni_diffusion.training.loader import Loader
    from omni_diffusion.training.opening import open_data
    from omni_diffusion.training.recipe import MaskingRecipe

    data = open_data(recipe_of(folder))
    plan, planned, window = data.plan, 0, 1
    plan.window(0)
    began = time.process_time()
    while planned < samples:
        for step in range(plan.steps_per_window):
            planned += len(plan.step(window * plan.steps_per_window + step))
        window += 1
    cpu_s = time.process_time() - began
    taken = pads = room = 0
    with Loader(data, MaskingRecipe()) as loader:
        for batch in loader.batches(0, plan.steps_per_window):
            taken += int(np.count_nonzero(batch.segments))
            pads += int(np.count_nonzero(batch.tail))
            room += batch.segments.size
    return {
        "seconds_per_million": cpu_s / planned * 1e6,
        "fill": taken / room,
        "fill_without_tail_pads": (taken - pads) / room,
        "steps": plan.steps_per_window,
    }


def task_rate(root: str, cache: str | None, limit_mb: int, steps: int) -> Fields:
    """Samples a second of masked batches, from the second batch on."""
    from omni_diffusion.training.loader import Loader
    from omni_diffusion.training.opening import open_data
    from omni_diffusion.training.recipe import MaskingRecipe

    changes = {"shuffle_shards": 2, "rows_per_step": 64, "window_rows": 1024}
    data = open_data(recipe_of(root, cache, limit_mb, **changes))
    samples, cpu = 0, time.process_time()
    with Loader(data, MaskingRecipe()) as loader:
        batches = loader.batches(0, steps)
        next(batches)
        began = time.perf_counter()
        for batch in batches:
            samples += len(batch.samples)
        wall = time.perf_counter() - began
    cpu_s = time.process_time() - cpu
    return {"rate": samples / wall, "samples": samples, "cpu_us": cpu_s / samples * 1e6}


TASKS: dict[str, Callable[..., Fields]] = {
    "first_batch": task_first_batch,
    "plan": task_plan,
    "rate": task_rate,
}


# --- the object store ----------------------------------------------------------------------------

_SERVER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from s3server import S3Server
import json
server = S3Server()
print(json.dumps(server.environment()), flush=True)
sys.stdin.read()
"""


@contextmanager
def object_store() -> Iterator[dict[str, str]]:
    """An S3 server in a process of its own; yields the variables that lead to it."""
    support = str(Path(__file__).parents[1] / "tests/support")
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER, support],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout and server.stdin
        yield json.loads(server.stdout.readline())
        server.stdin.close()


def upload(folder: Path, environment: dict[str, str]) -> str:
    import s3fs

    os.environ.update(environment)
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.mkdir("benchmark")
    files.put(str(folder), "benchmark/corpus", recursive=True)
    return "s3://benchmark/corpus"


# --- the whole -----------------------------------------------------------------------------------


def benchmark_plan(rows: int, samples: int, shard_rows: int = SHARD_ROWS) -> Fields:
    """Figures of a generated index of about `rows` rows; nothing of it is kept."""
    with tempfile.TemporaryDirectory() as scratch:
        small, large = Path(scratch) / "small", Path(scratch) / "large"
        make_group(small, SHARDS_PER_GROUP, shard_rows)
        real = repeat_group(small, large, max(1, round(rows / SHARDS_PER_GROUP / shard_rows)))
        # Other work on the machine can only add to a time: the fastest of some runs counts.
        runs = [in_process(__file__, "first_batch", folder=str(large)) for _ in range(FIRST_RUNS)]
        first = min(runs, key=lambda run: float(run["first_batch_s"]))
        plan = in_process(__file__, "plan", folder=str(large), samples=samples)
    return {
        "index_rows": real,
        "plan_seconds_per_million": round(plan["seconds_per_million"], 3),
        "packing_fill": round(plan["fill"], 4),
        "packing_fill_without_tail_pads": round(plan["fill_without_tail_pads"], 4),
        "packing_fill_steps": plan["steps"],
        "first_batch_s": round(first["first_batch_s"], 2),
        "first_batch_s_of_runs": [round(run["first_batch_s"], 2) for run in runs],
        "first_batch_cpu_s": round(first["first_batch_cpu_s"], 2),
        "far_step": first["far_step"],
        "far_batch_s": round(first["far_batch_s"], 2),
        "plan_rss_mb": round(first["plan_rss_mb"]),
        "batch_rss_mb": round(first["batch_rss_mb"]),
    }


def benchmark_remote(shards: int, shard_rows: int, repeats: int) -> Fields:
    """Loading over the S3 protocol on loopback, with a cache smaller than the corpus."""
    with tempfile.TemporaryDirectory() as scratch, object_store() as environment:
        folder = Path(scratch) / "corpus"
        make_group(folder, shards, shard_rows)
        size = sum(path.stat().st_size for path in (folder / "shards").glob("*.tar"))
        limit_mb = max(1, int(size / shards * CACHE_SHARDS / 1e6))
        url = upload(folder, environment)
        steps = shards * shard_rows // 64 // 4
        local, remote = [], []
        for repeat in range(repeats):
            arguments: Fields = {"limit_mb": limit_mb, "steps": steps}
            local.append(in_process(__file__, "rate", root=str(folder), cache=None, **arguments))
            cache = f"{scratch}/cache{repeat}"
            remote.append(
                in_process(__file__, "rate", environment, root=url, cache=cache, **arguments)
            )
    rates = [median(run["rate"] for run in runs) for runs in (local, remote)]
    return {
        "remote_ratio": round(rates[1] / rates[0], 3),
        "local_samples_per_s": round(rates[0]),
        "remote_samples_per_s": round(rates[1]),
        "loader_cpu_us_per_sample": round(median(run["cpu_us"] for run in local), 1),
        "remote_corpus_mb": round(size / 1e6),
        "remote_cache_mb": limit_mb,
    }


def benchmark(rows: int, samples: int, repeats: int, shard_rows: int = SHARD_ROWS) -> Fields:
    """All figures of this file."""
    found = benchmark_plan(rows, samples, shard_rows)
    return found | benchmark_remote(REMOTE_SHARDS, shard_rows, repeats)


def main(
    rows: int = typer.Option(100_000_000, help="Rows of the generated index."),
    samples: int = typer.Option(1_000_000, help="Samples to plan."),
    repeats: int = typer.Option(3, help="Alternating runs, local and remote."),
    short: bool = typer.Option(False, help="A small pass that only shows that everything runs."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    keep: bool = typer.Option(False, help="Write figures to benchmarks/results/train_plan.json."),
    task: str = typer.Option("", hidden=True),
) -> None:
    """Measure planning and loading."""
    if task:
        run_task(TASKS, task)
        return
    figures = benchmark(60_000, 20_000, 1, 400) if short else benchmark(rows, samples, repeats)
    tell("train_plan", figures, keep=keep, as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
