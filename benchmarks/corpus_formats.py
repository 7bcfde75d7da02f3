"""The synthetic corpus in three formats: ours, webdataset's and litdata's, written and read.

A sample is a JSON head of about 300 bytes, 20-200 text ids, usually a picture of 256 or 1,024
codes, usually 25-400 speech codes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 64
SEED = 7
SHARDS = 6

Fields = dict[str, Any]


def synthetic(start: int, stop: int) -> Iterator[Fields]:
    """Samples `start` to `stop` of the corpus: key, head and one array a modality."""
    for i in range(start, stop):
        rng = np.random.default_rng((SEED, i))
        fields: Fields = {
            "key": f"s{i:08d}",
            "text": rng.integers(0, 151_643, rng.integers(20, 201), dtype=np.uint32),
        }
        if rng.random() < 0.8:
            fields["image"] = rng.integers(0, 8192, rng.choice([256, 1024]), dtype=np.uint16)
        if rng.random() < 0.88:
            fields["speech"] = rng.integers(0, 16384, rng.integers(25, 401), dtype=np.uint16)
        media = {"images": [f"img/{i:08d}.jpg"] if "image" in fields else []}
        media["audios"] = [f"audio/{i:08d}.flac"] if "speech" in fields else []
        content = "<|image|>" * len(media["images"]) + "<|audio|>" * len(media["audios"])
        question = f"Describe picture number {i} in one short sentence."
        fields["head"] = {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": content or "An answer."},
            ],
            **media,
            "task": "t2i",
            "source": "synthetic",
            "license": "CC0-1.0",
            "language": "en",
            "provenance": {"origin": f"synthetic://{i}"},
        }
        yield fields


def payload_bytes(fields: Fields) -> int:
    """What any format has to hold: the head as compact JSON and the arrays."""
    head = len(json.dumps(fields["head"], separators=(",", ":")))
    return int(
        head + sum(fields[name].nbytes for name in ("text", "image", "speech") if name in fields)
    )


# --- writers -------------------------------------------------------------------------------------


def write_ours(folder: Path, samples: int) -> None:
    from omni_diffusion.corpus.index import compact
    from omni_diffusion.corpus.record import Record
    from omni_diffusion.corpus.sample import BY_NAME, SPAN, Sample, build_sample
    from omni_diffusion.corpus.shard import write_shard
    from omni_diffusion.corpus.storage import Storage

    def convert(fields: Fields) -> Sample:
        streams = {"text": fields["text"]}
        spans = [(0, 1, BY_NAME["text"].code, 0, len(fields["text"]), 0)]
        if "image" in fields:
            name = "image256" if len(fields["image"]) == 256 else "image512"
            streams[name] = fields["image"]
            side = int(len(fields["image"]) ** 0.5)
            spans.append((1, 2, BY_NAME[name].code, 0, side * side, side))
        if "speech" in fields:
            streams["speech"] = fields["speech"]
            spans.append((1, 2, BY_NAME["speech"].code, 0, len(fields["speech"]), 0))
        record = Record.from_dict(fields["head"], fields["key"])
        return build_sample(fields["key"], record, streams, np.array(spans, SPAN))

    storage = Storage(folder)
    for shard, (start, stop) in enumerate(_parts(samples)):
        write_shard(storage, shard, map(convert, synthetic(start, stop)), {"text": "synthetic"})
    compact(storage)


def write_webdataset(folder: Path, samples: int) -> None:
    import webdataset as wds

    for shard, (start, stop) in enumerate(_parts(samples)):
        with wds.TarWriter(str(folder / f"{shard:05d}.tar")) as writer:
            for fields in synthetic(start, stop):
                members = {f"{n}.npy": fields[n] for n in _ARRAYS if n in fields}
                writer.write({"__key__": fields["key"], "json": fields["head"], **members})


def write_litdata(folder: Path, samples: int) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder), chunk_bytes="16MB")
    for i, fields in enumerate(synthetic(0, samples)):
        arrays = {n: fields.get(n, np.empty(0, np.uint16)) for n in _ARRAYS}
        head = json.dumps(fields["head"], separators=(",", ":")).encode()
        writer[i] = {"key": fields["key"], "head": head, **arrays}
    writer.done()
    writer.merge()


_ARRAYS = ("text", "image", "speech")


def _parts(samples: int) -> Iterator[tuple[int, int]]:
    edges = np.linspace(0, samples, SHARDS + 1).astype(int).tolist()
    return itertools.pairwise(edges)


# --- readers: batches of (key, arrays) in a shuffled order ----------------------------------------

Batch = list[tuple[str, list[np.ndarray[Any, Any]]]]


def read_ours(folder: Path) -> Iterator[Batch]:
    from omni_diffusion.corpus.corpus import Corpus
    from omni_diffusion.corpus.stream import SampleStream

    stream = SampleStream(corpus=Corpus(folder), batch_size=BATCH, seed=SEED)
    seen = len(stream.corpus)
    for step in range(len(stream)):
        samples = stream[step][: seen - step * BATCH]
        yield [(sample.key, list(sample.streams.values())) for sample in samples]


def read_webdataset(folder: Path) -> Iterator[Batch]:
    import webdataset as wds

    urls = sorted(map(str, folder.glob("*.tar")))
    rows = wds.WebDataset(urls, shardshuffle=len(urls), seed=SEED).shuffle(1000).decode()
    yield from _batched(
        (row["__key__"], [row[f"{n}.npy"] for n in _ARRAYS if f"{n}.npy" in row]) for row in rows
    )


def read_litdata(folder: Path) -> Iterator[Batch]:
    from litdata import StreamingDataset

    rows = StreamingDataset(str(folder), shuffle=True, seed=SEED)
    yield from _batched((row["key"], [row[n] for n in _ARRAYS]) for row in rows)


def _batched(rows: Iterable[tuple[str, list[np.ndarray[Any, Any]]]]) -> Iterator[Batch]:
    batch: Batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def collate(batch: Batch) -> tuple[np.ndarray[Any, Any], list[int], list[str]]:
    """The same for every format: one flat int32 array, lengths, keys."""
    arrays = [array for _, arrays in batch for array in arrays]
    flat = np.concatenate(arrays, dtype=np.int32, casting="unsafe")
    return flat, [len(array) for array in arrays], [key for key, _ in batch]


FORMATS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], Iterator[Batch]]]] = {
    "ours": (write_ours, read_ours),
    "webdataset": (write_webdataset, read_webdataset),
    "litdata": (write_litdata, read_litdata),
}
