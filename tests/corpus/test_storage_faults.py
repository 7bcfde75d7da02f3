"""Whatever a store or a network does: the right bytes, or an error that names the file."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs

from corpora import FINGERPRINTS, make_sample, same
from flaky_s3 import FAULTS, TRANSIENT, FlakyS3, flaky_s3
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.index import compact
from omni_diffusion.corpus.shard import write_shard
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import StorageError

DATA = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(200_000)


@pytest.fixture(scope="module")
def store() -> Iterator[FlakyS3]:
    """A flaky store that this process's S3 client talks to."""
    with flaky_s3() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment().items():
            patch.setenv(name, value)
        # Fewer tries and so shorter pauses; clients are kept by s3fs, whatever the environment.
        patch.setattr(s3fs.S3FileSystem, "retries", 2)
        s3fs.S3FileSystem.clear_instance_cache()
        yield store
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(store: FlakyS3) -> str:
    """URL of a new bucket."""
    name = f"bucket-{uuid.uuid4().hex}"
    store.make_bucket(name)
    return f"s3://{name}/prefix"


def opened(storage: Storage) -> bytes:
    with storage.open("data") as file:
        file.seek(1000)
        head = file.read(10)
        return head + file.read()


def downloaded(storage: Storage) -> bytes:
    with storage.temporary("copy") as path:
        storage.download("data", path)
        return path.read_bytes()


def published(storage: Storage) -> bytes | None:
    storage.publish_bytes(OTHER, "new")
    return OTHER


def replaced(storage: Storage) -> None:
    storage.publish_bytes(OTHER, "data", replace=True)


PARTS = [(1000, 250_000), (299_000, None), (299_000, 400_000)]
VERBS: dict[str, tuple[Callable[[Storage], Any], Any]] = {
    "read": (lambda s: s.read("data"), DATA),
    "read parts": (
        lambda s: [s.read("data", *place) for place in PARTS],
        [DATA[slice(*place)] for place in PARTS],
    ),
    "open": (opened, DATA[1000:]),
    "download": (downloaded, DATA),
    "size": (lambda s: s.size("data"), len(DATA)),
    "list": (lambda s: [(e.name, e.size) for e in s.list()], [("data", len(DATA))]),
    "publish": (published, OTHER),
    "replace": (replaced, None),
    "remove": (lambda s: s.remove("data"), None),
}


def is_consistent(storage: Storage) -> bool:
    """Whether what can be seen is whole: an old file or a new one, never a part."""
    seen = {entry.name: storage.read(entry.name) for entry in storage.list()}
    return seen.pop("data", DATA) in (DATA, OTHER) and seen in ({}, {"new": OTHER})


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("fault", FAULTS)
def test_once_or_for_ever_a_fault_gives_the_right_bytes_or_an_error(
    fault: str, verb: str, store: FlakyS3, bucket: str
) -> None:
    storage = Storage(bucket)
    storage.publish_bytes(DATA, "data")
    use, right = VERBS[verb]
    for times in (1, None):
        with store.spoiling(fault, times=times) as met:
            try:
                assert use(storage) == right
            except StorageError as error:
                assert bucket in str(error)
        assert met and is_consistent(storage)
    if verb == "remove":
        storage.publish_bytes(DATA, "data")
    assert use(storage) == right, "once the fault is over, the same call does it"


@pytest.mark.parametrize("fault", ["slow_down", "lost", "reset", "cut"])
def test_a_fault_that_passes_is_not_even_noticed(fault: str, store: FlakyS3, bucket: str) -> None:
    storage = Storage(bucket)
    with store.spoiling(fault, "PUT", times=1) as met:
        storage.publish_bytes(DATA, "data")
    with store.spoiling(fault, "GET", times=1) as met_too:
        assert storage.read("data", 5, 100_000) == DATA[5:100_000]
    assert len(met) == len(met_too) == 1


def test_an_upload_in_parts_whose_last_answer_is_lost_has_happened(
    store: FlakyS3, bucket: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda *_, **__: 5 << 20)
    path = tmp_path / "large"
    path.write_bytes(DATA * 40)
    storage = Storage(bucket)
    with store.spoiling("lost", "POST", "uploadId=", times=1) as met:
        storage.publish(path, "large")
    assert met and storage.size("large") == path.stat().st_size


def test_a_store_that_vanishes_is_named_and_may_come_back(store: FlakyS3, bucket: str) -> None:
    storage = Storage(bucket)
    storage.publish_bytes(DATA, "data")
    with store.gone():
        for verb, (use, _) in VERBS.items():
            with pytest.raises(StorageError, match=bucket):
                pytest.fail(f"{verb} gave {use(storage)!r:.50}")
    assert storage.read("data") == DATA


@pytest.mark.parametrize("seed", range(2))
def test_a_corpus_written_and_read_through_a_bad_network_is_right(seed: int) -> None:
    """Who repeats what failed gets there, and never sees anything else than what was written."""

    def insist(use: Callable[[], Any]) -> Any:
        for _ in range(30):
            try:
                return use()
            except StorageError:
                failures.append(1)
        raise AssertionError("nothing ever works")

    failures: list[int] = []
    with flaky_s3(seed=seed, rate=0.25) as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment().items():
            patch.setenv(name, value)
        patch.setattr(s3fs.S3FileSystem, "retries", 2)
        s3fs.S3FileSystem.clear_instance_cache()
        store.make_bucket("bucket")
        storage = Storage("s3://bucket/corpus")
        samples = [[make_sample(f"s{2 * n + i}", 2 * n + i) for i in range(2)] for n in range(3)]
        for number, part in enumerate(samples):
            insist(lambda n=number, p=part: write_shard(storage, n, p, FINGERPRINTS))
        insist(lambda: compact(storage))
        corpus = insist(lambda: Corpus(storage.root))
        for row in (5, 0, 3):
            assert same(insist(lambda r=row: corpus.sample(r)), make_sample(f"s{row}", row))
        assert len(store.spoilt) > 0.1 * store.asked and failures, "it was a bad network"
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_seed_spoils_the_same_requests_each_time(store: FlakyS3) -> None:
    def spoilt(seed: int, order: list[int]) -> set[tuple[str, str]]:
        other = FlakyS3(store.backend, seed, 0.5, TRANSIENT)
        other.close()
        for i in order:
            other.fault_for("GET", f"/b/{i}", None)
        return {(s.target, s.fault) for s in other.spoilt}

    asks = [*range(50), *range(50)]
    assert spoilt(1, asks) == spoilt(1, asks[::-1]) != spoilt(2, asks)
    assert 20 < len(spoilt(1, asks)) < 80


@pytest.mark.parametrize("vanishes", ["before it is looked at", "after"])
def test_a_listing_survives_files_that_others_finish(
    vanishes: str, tmp_path: Path, monkeypatch
) -> None:
    """A temporary file gets its name, or goes, while somebody lists the folder."""
    storage = Storage(tmp_path)
    storage.publish_bytes(b"1", "a/done")
    (tmp_path / "a/.tmp-x").write_bytes(b"2")
    look = Path.stat

    def vanishing(path: Path, **options: Any) -> os.stat_result:
        if path.name == ".tmp-x" and vanishes != "after":
            path.unlink(missing_ok=True)
        result = look(path, **options)
        if path.name == ".tmp-x":
            path.unlink(missing_ok=True)
        return result

    monkeypatch.setattr(Path, "stat", vanishing)
    assert "a/done" in [entry.name for entry in storage.list()]
    assert not (tmp_path / "a/.tmp-x").exists()
