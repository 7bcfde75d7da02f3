"""Every named query of the audit over a generated index, its memory, and the size of the index.

The corpus is a folder as a job leaves it: sidecars, `index.parquet`, `corpus.json`, rejects, runs,
and tars that have their declared sizes but no content (they are sparse files; no query over the
index reads them). There are five sources with a task each, one after the other, as a job lays them
down: a partition of a source becomes a shard. (`index_bytes_per_row_mixed` is of an index in which
they alternate at random.) A thousandth of the samples repeat others; synthetic speech has voice,
engine, duration and error rate. What a pass over the tars would have found (`codes`) is put into
the audit's cache by the same code that keeps it; how fast such a pass is is measured on a real,
small corpus (`scan_samples_per_s`). Each query runs in a process of its own, which opens the corpus
first; times are wall seconds of the query alone, medians of the repeats, and beside them CPU
seconds. `compare` holds the corpus against a subset of 99 hundredths of it, which `select` made.
"""

from __future__ import annotations

import itertools
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import typer

# This folder holds modules that are named as libraries are.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.processes import in_process, run_task, tasks_of  # noqa: E402
from benchmarks.results import tell  # noqa: E402

SEED = 7
ROWS_PER_SHARD = 6_667
EVALUATION_ROWS = 10_000
MIXED_ROWS = 1_000_000

Fields = dict[str, Any]
Array = np.ndarray[Any, Any]

TASKS = ("t2i", "svqa", "asr", "tts", "caption")
SOURCES = ("pictures", "questions", "recordings", "voices", "captions")
LANGUAGES = ("en", "zh", "de", "fr", "es")


# --- the corpus ----------------------------------------------------------------------------------


def columns_of(shard: int, start: int, stop: int, kind: int | None) -> Fields:
    """Columns of one shard's sidecar, as real samples of one kind, or of all, would give them."""
    rng, n = np.random.default_rng((SEED, shard)), stop - start
    task = rng.integers(0, 5, n) if kind is None else np.full(n, kind)
    text = rng.integers(20, 201, n)
    speech = np.where(np.isin(task, (1, 2, 3)), rng.integers(25, 401, n), 0)
    small = np.where(task == 0, 256, 0)
    large = np.where(np.isin(task, (1, 4)), 1024, 0)
    spans = np.array([2, 4, 2, 2, 3])[task]
    streams = 1 + (speech > 0) + (small > 0) + (large > 0)
    record = rng.integers(220, 420, n)
    size = 16 + 8 * streams + 16 * spans + 4 * text + 2 * (speech + small + large) + record
    members = 512 + (size + 511) // 512 * 512
    spoken = np.isin(task, (1, 3))
    voice = rng.integers(0, 40, n)
    rate = np.where(rng.random(n) < 0.8, 0, rng.integers(1, 6, n) / rng.integers(5, 30, n))
    hashes = rng.integers(0, 2**64, n, dtype=np.uint64)
    copies = rng.random(n) < 0.001
    hashes[copies] = hashes[rng.integers(0, n, int(copies.sum()))]
    language = voice % 5
    nulls = ~spoken
    return {
        "key": [f"s{i:09d}" for i in range(start, stop)],
        "shard": np.full(n, shard),
        "offset": np.cumsum(members) - members + 512,
        "size": size,
        "crc": rng.integers(0, 2**32, n),
        "content_hash": hashes,
        "text_len": text,
        "image256_len": small,
        "image512_len": large,
        "speech_len": speech,
        "features_len": np.zeros(n, int),
        "n_spans": spans,
        "supervised_len": np.choose(task, [small, speech // 2, text, speech, text]),
        "task": _names(TASKS, task),
        "source": _names(SOURCES, task),
        "language": _names(LANGUAGES, language),
        "license": _names(("CC0-1.0", "CC-BY-4.0"), task % 2),
        "voice": _names([f"voice-{v:02d}" for v in range(40)], voice, nulls),
        "tts_engine": _names(("edge", "kokoro"), voice % 2, nulls),
        "wer": _masked(rate, nulls),
        "duration_s": _masked(speech / 12.5, nulls),
    }


def _names(names: Any, which: Array, nulls: Array | None = None) -> Any:
    import pyarrow as pa

    indices = pa.array(which.astype(np.int32), mask=nulls)
    return pa.DictionaryArray.from_arrays(indices, pa.array(list(names))).cast(pa.string())


def _masked(values: Array, nulls: Array) -> Any:
    import pyarrow as pa

    return pa.array(values.astype(np.float32), mask=nulls)


def write_corpus(folder: Path, rows: int, *, mixed: bool = False) -> None:
    """Everything but the content of the tars."""
    import pyarrow as pa

    from omni_diffusion.corpus.index import compact
    from omni_diffusion.corpus.rejects import Reject, encode_rejects, rejects_name
    from omni_diffusion.corpus.sidecar import (
        SCHEMA,
        ShardInfo,
        encode_sidecar,
        sidecar_name,
        tar_name,
    )
    from omni_diffusion.corpus.storage import Storage

    for name in ("shards", "rejects"):
        (folder / name).mkdir(parents=True)
    edges = [*range(0, rows, ROWS_PER_SHARD), rows]
    for shard, (start, stop) in enumerate(itertools.pairwise(edges)):
        kind = None if mixed else shard * 5 // (len(edges) - 1)
        found = columns_of(shard, start, stop, kind)
        columns = [
            pa.array(found[f.name]).cast(f.type)
            if f.name in found
            else pa.nulls(stop - start, f.type)
            for f in SCHEMA
        ]
        last = int(found["offset"][-1] + found["size"][-1])
        size = (last + 511) // 512 * 512 + 1024
        rejects = [
            Reject(key=f"r{shard}-{i}", stage="decode", reason=f"reason {i % 3}") for i in range(20)
        ]
        info = ShardInfo(
            number=shard,
            digest=f"{shard:064x}",
            size=size,
            rows=stop - start,
            rejects=len(rejects),
            fingerprints={"text": "synthetic"},
        )
        with (folder / tar_name(shard)).open("wb") as tar:
            tar.truncate(size)
        (folder / sidecar_name(shard)).write_bytes(
            encode_sidecar(pa.Table.from_arrays(columns, schema=SCHEMA), info)
        )
        (folder / rejects_name(shard)).write_bytes(encode_rejects(rejects))
    compact(Storage(folder))


def fill_cache(folder: Path, cache: Path) -> None:
    """Counts of codes for every shard, as a pass over tars of 2,000 codes a sample leaves them."""
    from omni_diffusion.audit.audit import Audit
    from omni_diffusion.audit.contents import ContentCache, Contents

    keep = ContentCache(cache)
    with Audit(folder, cache=cache) as audit:
        for shard, digest in audit.row_digests().items():
            rng = np.random.default_rng((SEED, shard))
            contents = Contents(shard)
            for name, codes, total in (("image512", 8192, 4e6), ("speech", 16384, 1e6)):
                shares = rng.dirichlet(np.full(codes, 0.5))
                contents.codes[name] = np.zeros(1 << 16, np.int64)
                contents.codes[name][:codes] = rng.multinomial(int(total), shares)
            for table, rows in contents.tables().items():
                keep.keep(table, digest, rows)
    with Audit(folder, cache=cache) as audit:  # a pass ends with the sum over all shards
        audit.rows("SELECT count(*) AS n FROM codes")


# --- what runs in a process of its own -----------------------------------------------------------


def task_corpus(folder: str, rows: int) -> Fields:
    write_corpus(Path(folder) / "corpus", rows)
    write_corpus(Path(folder) / "evaluation", min(rows, EVALUATION_ROWS))
    fill_cache(Path(folder) / "corpus", Path(folder) / "cache")
    write_corpus(Path(folder) / "mixed", min(rows, MIXED_ROWS), mixed=True)
    return {
        "bytes_per_row": (Path(folder) / "corpus/index.parquet").stat().st_size / rows,
        "mixed": (Path(folder) / "mixed/index.parquet").stat().st_size / min(rows, MIXED_ROWS),
    }


def task_index(folder: str) -> Fields:
    """Opening the index as a loader does."""
    from omni_diffusion.corpus.index import Index
    from omni_diffusion.corpus.storage import Storage

    wall = time.perf_counter()
    Index(Storage(Path(folder) / "corpus"))
    return {"wall_s": time.perf_counter() - wall}


def task_query(folder: str, name: str) -> Fields:
    from omni_diffusion.audit.audit import Audit
    from omni_diffusion.audit.named import named_query

    query = named_query(name)
    against = Path(folder) / "evaluation" if query.compares else None
    wall = time.perf_counter()
    batches = planned(Path(folder) / "corpus") if query.needs_run else None
    with Audit(
        Path(folder) / "corpus", against=against, cache=Path(folder) / "cache", batches=batches
    ) as audit:
        opened, cpu = time.perf_counter(), time.process_time()
        rows = audit.query(query.sql, query.values({})).read_all().num_rows
        done, cpu_s = time.perf_counter(), time.process_time() - cpu
    figures = {"open_s": opened - wall, "wall_s": done - opened, "cpu_s": cpu_s, "rows": rows}
    return figures | {"peak_rss_mb": peak_rss_mb()}


def planned(corpus: Path) -> Any:
    """A table as a training plan of 1,000 steps gives it: 100 samples a step."""
    import pyarrow as pa

    from omni_diffusion.training.planned import SCHEMA

    rng, n = np.random.default_rng(SEED), 100_000
    part = rng.integers(0, 5, n)
    columns = {
        "step": np.arange(n) // 100,
        "row": np.arange(n) % 100 // 4,
        "rows": np.full(n, 25),
        "row_length": np.full(n, 3072),
        "part": _names(SOURCES, part),
        "corpus": [str(corpus)] * n,
        "key": [f"s{i:09d}" for i in rng.integers(0, 10_000, n)],
        "task": _names(TASKS, part),
        "epoch": np.zeros(n),
        "length": rng.integers(100, 1400, n),
        "tail_pads": rng.integers(1, 17, n),
        "supervised_len": rng.integers(50, 700, n),
        "time": rng.random(n),
    }
    return pa.table({f.name: pa.array(columns[f.name]).cast(f.type) for f in SCHEMA})


def peak_rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def task_compare(folder: str) -> Fields:
    """The whole corpus against a copy of its index that lacks a hundredth of the rows."""
    from omni_diffusion.audit.audit import Audit
    from omni_diffusion.audit.compare import compare

    cache = Path(folder) / "cache"
    wall, cpu = time.perf_counter(), time.process_time()
    with Audit(Path(folder) / "corpus", against=Path(folder) / "subset", cache=cache) as audit:
        found = compare(audit)
    assert found.changes[-1].added and not found.changes[-1].changed
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_rss_mb": peak_rss_mb(),
    }


def task_select(folder: str) -> Fields:
    """A subset of 99 hundredths of the rows."""
    from omni_diffusion.audit.audit import Audit
    from omni_diffusion.audit.select import select

    corpus = str(Path(folder) / "corpus")
    sql = "SELECT key FROM samples WHERE hash(key) % 100 <> 0"
    wall, cpu = time.perf_counter(), time.process_time()
    with Audit(corpus) as audit:
        select(audit, sql, Path(folder) / "subset", source=corpus)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    subset = Path(folder) / "subset"
    # What it would have read from tars: the same counts.
    fill_cache(subset, Path(folder) / "cache")
    return {"wall_s": wall, "cpu_s": cpu, "peak_rss_mb": peak_rss_mb()}


def task_scan(folder: str, samples: int) -> Fields:
    """Reading messages, media and codes from the tars of a real, small corpus."""
    from benchmarks.corpus_formats import write_ours
    from omni_diffusion.audit.audit import Audit

    corpus = Path(folder) / "scan"
    corpus.mkdir()
    write_ours(corpus, samples)
    with Audit(corpus, cache=Path(folder) / "scan-cache") as audit:
        wall = time.perf_counter()
        found = audit.rows("SELECT count(*) AS n FROM messages")[0]["n"]
        seconds = time.perf_counter() - wall
    assert found == 2 * samples, found
    return {"samples_per_s": samples / seconds}


TASKS_BY_NAME = tasks_of(globals())


# --- the benchmark -------------------------------------------------------------------------------


def benchmark(rows: int, repeats: int, scan_samples: int) -> Fields:
    """All figures at one size; of times, the median of the repeats."""
    from omni_diffusion.audit.named import named_queries

    with tempfile.TemporaryDirectory() as scratch:
        built = in_process(__file__, "corpus", folder=scratch, rows=rows)
        runs: dict[str, list[Fields]] = {name: [] for name in named_queries()}
        opening = []
        for _ in range(repeats):
            opening.append(in_process(__file__, "index", folder=scratch)["wall_s"])
            for name, done in runs.items():
                done.append(in_process(__file__, "query", folder=scratch, name=name))
        scan = in_process(__file__, "scan", folder=scratch, samples=scan_samples)
        chosen = in_process(__file__, "select", folder=scratch)
        compared = in_process(__file__, "compare", folder=scratch)
    seconds, cpu = (
        {name: median(done, column) for name, done in runs.items()}
        for column in ("wall_s", "cpu_s")
    )
    duplicates = {name for name in seconds if name.startswith("duplicate")}
    return {
        "rows": rows,
        "slowest_query_s": max(v for n, v in seconds.items() if n not in duplicates),
        "duplicates_s": max(seconds[name] for name in duplicates),
        "peak_rss_mb": round(max(r["peak_rss_mb"] for done in runs.values() for r in done)),
        "index_bytes_per_row": round(built["bytes_per_row"], 2),
        "index_bytes_per_row_mixed": round(built["mixed"], 2),
        "query_s": seconds,
        "query_cpu_s": cpu,
        "open_s": median([r for done in runs.values() for r in done], "open_s"),
        "index_open_s": round(float(np.median(opening)), 3),
        "scan_samples_per_s": round(scan["samples_per_s"]),
        **{f"compare_{name}": round(value, 2) for name, value in compared.items()},
        **{f"select_{name}": round(value, 2) for name, value in chosen.items()},
    }


def median(runs: list[Fields], column: str) -> float:
    return round(float(np.median([run[column] for run in runs])), 3)


def main(
    rows: int = typer.Option(10_000_000, help="Rows of the generated index."),
    repeats: int = typer.Option(3, help="Repeats of every query; the median counts."),
    scan_samples: int = typer.Option(20_000, help="Samples of the real corpus that is scanned."),
    growth: bool = typer.Option(True, help="Also measure a tenth of the rows."),
    short: bool = typer.Option(False, help="A small pass that only shows that everything runs."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    keep: bool = typer.Option(False, help="Write the figures to benchmarks/results/audit.json."),
    task: str = typer.Option("", hidden=True),
) -> None:
    """Measure the audit."""
    if task:
        run_task(TASKS_BY_NAME, task)
        return
    if short:
        rows, repeats, scan_samples = 50_000, 1, 500
    tenth = benchmark(rows // 10, repeats, scan_samples) if growth else {}
    figures = benchmark(rows, repeats, scan_samples) | ({"tenth": tenth} if growth else {})
    tell("audit", figures, keep=keep, as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
