"""Our token shards against webdataset's and litdata's: size, speed, resumption, order, compaction.

The corpus is synthetic (`corpus_formats.py`). Every write and every read runs in a process of its
own; repeats are interleaved; times are CPU seconds unless they are called wall. Needs the `bench`
extra for the peers.
"""

from __future__ import annotations

import hashlib
import itertools
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import typer

# This folder holds a module that is named as the library `tokenizers` is.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.corpus_formats import (  # noqa: E402
    BATCH,
    FORMATS,
    SEED,
    SHARDS,
    Fields,
    collate,
    payload_bytes,
    synthetic,
)
from benchmarks.processes import in_process, run_task, tasks_of  # noqa: E402
from benchmarks.results import tell  # noqa: E402

# --- what runs in a process of its own -----------------------------------------------------------


def task_write(form: str, folder: str, samples: int) -> Fields:
    began = time.process_time()
    FORMATS[form][0](Path(folder), samples)
    return {"cpu_s": time.process_time() - began}


def task_payload(samples: int) -> Fields:
    return {"bytes": sum(map(payload_bytes, synthetic(0, samples)))}


def task_read(form: str, folder: str) -> Fields:
    """A full shuffled pass; imports and opening are outside the CPU count of the pass."""
    reader = FORMATS[form][1]
    next(reader(Path(folder)))  # imports, and the first touch of the files
    wall = time.perf_counter()
    batches = reader(Path(folder))
    collate(next(batches))
    first_s = time.perf_counter() - wall
    began, seen, tokens = time.process_time(), 0, 0
    for batch in reader(Path(folder)):
        flat, _, keys = collate(batch)
        seen, tokens = seen + len(keys), tokens + flat.size
    return {
        "us": (time.process_time() - began) / seen * 1e6,
        "first_s": first_s,
        "seen": seen,
        "tokens": tokens,
    }


def task_crc(folder: str) -> Fields:
    """CPU time of the checks alone, over the same members in the same order."""
    from isal.isal_zlib import crc32

    from omni_diffusion.corpus.corpus import Corpus
    from omni_diffusion.corpus.shard import ShardReader
    from omni_diffusion.corpus.sidecar import tar_name
    from omni_diffusion.corpus.stream import SampleStream

    corpus = Corpus(folder)
    stream = SampleStream(corpus=corpus, batch_size=len(corpus), seed=SEED)
    readers = [ShardReader(corpus.storage.path(tar_name(n))) for n in range(SHARDS)]
    index, rows = corpus.index, stream.rows(0)
    views = [readers[index.shard[r]].payload(index.offset[r], index.size[r])[8:] for r in rows]
    for view in views:
        crc32(view)
    began = time.process_time()
    for view in views:
        crc32(view)
    return {"us": (time.process_time() - began) / len(views) * 1e6}


def task_resume(folder: str, step: int, fresh: bool) -> Fields:
    """Keys of 512 samples from a step on, by resuming there or by reading up to it."""
    from omni_diffusion.corpus.corpus import Corpus
    from omni_diffusion.corpus.stream import SampleStream

    began = time.perf_counter()
    stream = SampleStream(corpus=Corpus(folder), batch_size=BATCH, seed=SEED)
    if fresh:
        at = stream.resume(stream.state(step))
        collate([(s.key, list(s.streams.values())) for s in stream[at]])
        first_s = time.perf_counter() - began
        keys = [s.key for i in range(at, at + 512 // BATCH) for s in stream[i]]
    else:
        passed = [[s.key for s in stream[i]] for i in range(step + 512 // BATCH)]
        first_s, keys = 0.0, [key for batch in passed[step:] for key in batch]
    return {"first_s": first_s, "keys": keys}


def task_order(folder: str, workers: int, ranks: int) -> Fields:
    """Digest of the global order of two passes, through torch's worker processes."""
    from torch.utils.data import DataLoader

    from omni_diffusion.corpus.corpus import Corpus
    from omni_diffusion.corpus.stream import SampleStream

    def keys_of(rank: int) -> list[list[str]]:
        stream = SampleStream(
            corpus=Corpus(folder), batch_size=BATCH, seed=SEED, rank=rank, world_size=ranks
        )
        keys: Any = _Keys(stream)  # torch asks for a Dataset, and takes any sequence
        steps = range(2 * len(stream))
        return list(DataLoader(keys, batch_size=None, num_workers=workers, sampler=steps))

    digest = hashlib.sha256()
    for parts in zip(*map(keys_of, range(ranks)), strict=True):
        for i in range(sum(map(len, parts))):
            digest.update(parts[i % ranks][i // ranks].encode())
    return {"digest": digest.hexdigest()}


class _Keys:
    """A stream that hands only keys to the parent process."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, step: int) -> list[str]:
        return [sample.key for sample in self.stream[step]]


def task_sidecars(folder: str, rows: int, files: int) -> Fields:
    """Sidecars of a corpus of that size, with the columns filled as real ones are."""
    import pyarrow as pa

    from omni_diffusion.corpus.sidecar import (
        SCHEMA,
        ShardInfo,
        encode_sidecar,
        sidecar_name,
        tar_name,
    )

    (Path(folder) / "shards").mkdir()
    edges = np.linspace(0, rows, files + 1).astype(int).tolist()
    for shard, (start, stop) in enumerate(itertools.pairwise(edges)):
        rng, n = np.random.default_rng((SEED, shard)), stop - start
        size = rng.integers(1200, 4000, n)
        members = (size + 511) // 512 * 512
        offset = np.cumsum(members + 512) - members
        names = ("laion", "journeydb", "librispeech", "emilia", "sdvi")
        columns: Fields = {name: pa.nulls(n, SCHEMA.field(name).type) for name in SCHEMA.names}
        columns |= {"key": [f"s{i:09d}" for i in range(start, stop)], "shard": np.full(n, shard)}
        columns |= {"offset": offset, "size": size, "crc": rng.integers(0, 2**32, n)}
        columns |= {"content_hash": rng.integers(0, 2**64, n, dtype=np.uint64)}
        columns |= {"text_len": rng.integers(20, 200, n), "image256_len": np.full(n, 256)}
        columns |= {"image512_len": np.zeros(n, int), "features_len": np.zeros(n, int)}
        columns |= {"speech_len": rng.integers(25, 400, n), "n_spans": rng.integers(2, 7, n)}
        columns |= {"supervised_len": rng.integers(25, 656, n)}
        columns |= {"task": ["t2i"] * n, "source": [names[i] for i in rng.integers(0, 5, n)]}
        columns |= {"language": ["en"] * n, "license": ["CC0-1.0"] * n}
        table = pa.table(
            {n: pa.array(c).cast(SCHEMA.field(n).type) for n, c in columns.items()}, schema=SCHEMA
        )
        info = ShardInfo(
            number=shard, digest=f"{shard:064x}", size=1 << 40, rows=n, rejects=0, fingerprints={}
        )
        (Path(folder) / tar_name(shard)).touch()
        (Path(folder) / sidecar_name(shard)).write_bytes(encode_sidecar(table, info))
    return {}


def task_compact(folder: str) -> Fields:
    from omni_diffusion.corpus.index import INDEX, compact
    from omni_diffusion.corpus.storage import Storage

    wall, began = time.perf_counter(), time.process_time()
    manifest = compact(Storage(folder))
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - began
    return {
        "rows_per_s": manifest.rows / wall_s,
        "cpu_s": cpu_s,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "bytes_per_row": (Path(folder) / INDEX).stat().st_size / manifest.rows,
    }


TASKS = tasks_of(globals())


# --- the benchmark -------------------------------------------------------------------------------


def benchmark(samples: int, repeats: int, compact_rows: int, compact_files: int) -> Fields:
    """All figures of the issue, from folders that are gone afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = {form: Path(scratch) / form for form in FORMATS}
        figures = against_peers(folders, samples, repeats)
        figures |= resumption(str(folders["ours"]), samples // BATCH // 2, repeats)
    with tempfile.TemporaryDirectory() as scratch:
        in_process(__file__, "sidecars", folder=scratch, rows=compact_rows, files=compact_files)
        found = in_process(__file__, "compact", folder=scratch)
    return figures | {
        "compact_rows": compact_rows,
        "compact_files": compact_files,
        "compact_rows_per_s": round(found["rows_per_s"]),
        "compact_cpu_s": round(found["cpu_s"], 1),
        "compact_peak_rss_mb": round(found["peak_rss_mb"]),
        "index_bytes_per_row": round(found["bytes_per_row"], 2),
    }


def against_peers(folders: dict[str, Path], samples: int, repeats: int) -> Fields:
    """Sizes, and interleaved passes over the same samples in every format."""
    payload = in_process(__file__, "payload", samples=samples)["bytes"]
    sizes: dict[str, int] = {}
    for form, folder in folders.items():
        folder.mkdir()
        in_process(__file__, "write", form=form, folder=str(folder), samples=samples)
        sizes[form] = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    reads: dict[str, list[Fields]] = {form: [] for form in FORMATS}
    crc: list[float] = []
    for _ in range(repeats):
        for form, folder in folders.items():
            reads[form].append(in_process(__file__, "read", form=form, folder=str(folder)))
        crc.append(in_process(__file__, "crc", folder=str(folders["ours"]))["us"])
    seen = {form: {r["seen"] for r in runs} for form, runs in reads.items()}
    assert all(counts == {samples} for counts in seen.values()), seen
    assert len({r["tokens"] for runs in reads.values() for r in runs}) == 1
    us = {form: median(r["us"] for r in runs) for form, runs in reads.items()}
    return {
        "samples": samples,
        "payload_mb": round(payload / 1e6, 1),
        "disk_ratio": round(sizes["ours"] / payload, 3),
        "disk_ratio_peers": {f: round(sizes[f] / payload, 3) for f in FORMATS if f != "ours"},
        "cpu_us_per_sample": round(us["ours"], 1),
        "cpu_us_per_sample_peers": {f: round(us[f], 1) for f in FORMATS if f != "ours"},
        "speedup_vs": {f: round(us[f] / us["ours"], 2) for f in FORMATS if f != "ours"},
        "first_batch_s": round(median(r["first_s"] for r in reads["ours"]), 3),
        "crc_cost_pct": round(100 * median(crc) / (us["ours"] - median(crc)), 1),
    }


def resumption(ours: str, half: int, repeats: int) -> Fields:
    """How soon a pass goes on in its middle, and whether anything changes the order."""
    resumed = [
        in_process(__file__, "resume", folder=ours, step=half, fresh=True) for _ in range(repeats)
    ]
    through = in_process(__file__, "resume", folder=ours, step=half, fresh=False)
    orders = {
        in_process(__file__, "order", folder=ours, workers=workers, ranks=ranks)["digest"]
        for workers, ranks in ((0, 1), (1, 1), (2, 1), (0, 2), (0, 4), (2, 2))
    }
    return {
        "resume_50pct_s": round(median(r["first_s"] for r in resumed), 3),
        "resume_exact": all(r["keys"] == through["keys"] for r in resumed),
        "order_same": len(orders) == 1,
    }


def main(
    samples: int = typer.Option(40_000, help="Samples of the synthetic corpus."),
    repeats: int = typer.Option(5, help="Interleaved repeats of every read."),
    compact_rows: int = typer.Option(10_000_000, help="Sidecar rows to compact."),
    compact_files: int = typer.Option(1_500, help="Sidecars that hold them."),
    short: bool = typer.Option(False, help="A small pass that only shows that everything runs."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    keep: bool = typer.Option(False, help="Write the figures to benchmarks/results/corpus.json."),
    task: str = typer.Option("", hidden=True),
) -> None:
    """Measure the corpus store against its peers."""
    if task:
        run_task(TASKS, task)
        return
    if short:
        samples, repeats, compact_rows, compact_files = 2_000, 1, 20_000, 10
    figures = benchmark(samples, repeats, compact_rows, compact_files)
    tell("corpus", figures, keep=keep, as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
