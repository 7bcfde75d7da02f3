"""Remote shards on a local disk: bounded, never stale, shared, and out of everybody's way."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora import files_of, make_corpus, make_sample, same
from omni_diffusion.corpus.cache import FOLDER, ShardCache
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.sidecar import tar_name
from omni_diffusion.corpus.storage import TEMPORARY, Storage
from omni_diffusion.errors import CorpusError, StorageError

SHARDS = 5


@pytest.fixture(scope="module")
def remote() -> Storage:
    """A corpus of several shards that is not on this disk."""
    return make_corpus(f"memory://{uuid.uuid4().hex}", [4] * SHARDS)


def size_of_one(storage: Storage) -> int:
    return max(storage.size(tar_name(number)) or 0 for number in range(SHARDS))


@settings(max_examples=20)
@given(orders=st.lists(st.permutations(range(4 * SHARDS)), max_size=3), shards=st.integers(1, 3))
def test_any_order_reads_right_in_less_room_than_the_corpus_takes(
    remote, tmp_path_factory, orders, shards
) -> None:
    limit = shards * size_of_one(remote)
    cache = ShardCache(tmp_path_factory.mktemp("cache"), limit)
    for order in orders:
        found = Corpus(remote.root, cache).samples(np.array(order))
        for row, sample in zip(order, found, strict=True):
            assert same(sample, make_sample(f"s{row}", row))
            assert cache.used_bytes() <= limit


def test_a_shard_that_is_here_is_not_fetched_again(bucket: str, s3, tmp_path: Path) -> None:
    storage = make_corpus(bucket, [2])
    Corpus(bucket, ShardCache(tmp_path, 1 << 20)).sample(0)
    s3.requests.clear()
    Corpus(bucket, ShardCache(tmp_path, 1 << 20)).sample(1)
    assert not [r for r in s3.requests if r.method == "GET" and tar_name(0) in r.target]
    assert storage.size(tar_name(0)) == ShardCache(tmp_path, 0).used_bytes()


def test_the_least_recently_used_shard_makes_room(remote: Storage, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 2 * size_of_one(remote))
    paths = [cache.fetch(remote, tar_name(number)) for number in (0, 1)]
    for age_s, path in enumerate(paths):
        os.utime(path, (1e9 + age_s, 1e9 + age_s))
    cache.fetch(remote, tar_name(0))
    cache.fetch(remote, tar_name(2))
    assert [path.exists() for path in paths] == [True, False]


def test_files_of_others_are_left_alone(remote: Storage, tmp_path: Path) -> None:
    for name in ("notes.txt", "00000.shard", f"{FOLDER}/README", f"{FOLDER}/sub/x.shard"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = files_of(tmp_path)
    cache = ShardCache(tmp_path, 1)
    for number in range(SHARDS):
        cache.fetch(remote, tar_name(number))
    after = files_of(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert len(after) == len(before) + 1


@pytest.mark.parametrize("data", [b"one more byte", b"same size..."])
def test_a_shard_that_was_replaced_is_fetched_again(bucket: str, tmp_path: Path, data) -> None:
    storage, cache = Storage(bucket), ShardCache(tmp_path, 1 << 20)
    storage.publish_bytes(b"first time..", "x")
    old = cache.fetch(storage, "x")
    storage.publish_bytes(data, "x", replace=True)
    assert cache.fetch(storage, "x").read_bytes() == data
    assert old.read_bytes() == b"first time.."


def test_what_is_mapped_outlives_its_file(remote: Storage, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 1)
    first = cache.reader(remote, tar_name(0))
    cache.reader(remote, tar_name(1))
    assert bytes(first.data) == remote.read(tar_name(0))


def test_a_copy_dropped_by_another_process_before_it_was_mapped_is_fetched_again(
    remote: Storage, tmp_path: Path, monkeypatch
) -> None:
    cache = ShardCache(tmp_path, 1 << 20)
    cache.fetch(remote, tar_name(0))

    def touch_and_lose(path: Path) -> bool:
        path.unlink()
        return True

    monkeypatch.setattr("omni_diffusion.corpus.cache._touch", touch_and_lose)
    assert bytes(cache.reader(remote, tar_name(0)).data) == remote.read(tar_name(0))


def read_all(cache: ShardCache, storage: Storage, rounds: int) -> None:
    for number in [*range(SHARDS)] * rounds:
        whole = storage.read(tar_name(number))
        assert bytes(cache.reader(storage, tar_name(number)).data) == whole


def test_threads_share_a_cache(remote: Storage, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, size_of_one(remote))
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(read_all, cache, remote, 5) for _ in range(4)]:
            done.result()
    assert cache.used_bytes() <= cache.limit_bytes


def test_processes_share_a_cache(bucket: str, tmp_path: Path) -> None:
    storage = make_corpus(bucket, [1] * SHARDS)
    cache = ShardCache(tmp_path, size_of_one(storage))
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=read_all, args=(cache, storage, 3)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert not [name for name in files_of(tmp_path) if TEMPORARY in name]


def test_a_corpus_with_a_cache_can_be_handed_to_another_process(
    remote: Storage, tmp_path: Path
) -> None:
    corpus = Corpus(remote.root, ShardCache(tmp_path, 1 << 20))
    first = corpus.sample(0)
    assert same(pickle.loads(pickle.dumps(corpus)).sample(0), first)  # noqa: S301


def test_a_failed_download_is_an_error_and_leaves_nothing(bucket: str, s3, tmp_path: Path) -> None:
    storage, cache = make_corpus(bucket, [2]), ShardCache(tmp_path, 1 << 20)
    with (
        s3.failing("GET", tar_name(0), 403, "AccessDenied"),
        pytest.raises(StorageError, match=f"{bucket}/{tar_name(0)}"),
    ):
        cache.fetch(storage, tar_name(0))
    assert files_of(tmp_path) == {}
    assert cache.fetch(storage, tar_name(0)).read_bytes() == storage.read(tar_name(0))


def test_a_missing_or_empty_shard_is_named(remote: Storage, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 1 << 20)
    with pytest.raises(StorageError, match=f"{remote.root}/shards/00099.tar: there is no such"):
        cache.fetch(remote, tar_name(99))
    remote.publish_bytes(b"", "empty.tar", replace=True)
    with pytest.raises(CorpusError, match=r"empty\.tar: truncated: the file is empty"):
        cache.reader(remote, "empty.tar")


def test_what_a_killed_download_left_goes_after_a_day(remote: Storage, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 1 << 20)
    cache.folder.mkdir()
    old, young = (cache.folder / f"{TEMPORARY}{name}" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    cache.fetch(remote, tar_name(0))
    assert (old.exists(), young.exists()) == (False, True)


def test_a_pass_keeps_no_more_mapped_than_the_cache_may_hold(
    remote: Storage, tmp_path: Path
) -> None:
    """A deleted file that is still mapped takes its room on the disk all the same."""
    corpus = Corpus(remote.root, ShardCache(tmp_path, size_of_one(remote)))
    assert len(list(corpus)) == len(corpus)
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if ".shard" in line]
    assert len([line for line in mapped if str(tmp_path) in line]) <= 1
