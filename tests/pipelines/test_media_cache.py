"""A file is encoded once, everywhere; and a cache never gives codes that are not its file's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import s3fs
from hypothesis import given
from hypothesis import strategies as st

import media_files
from flaky_s3 import flaky_s3
from media_files import add, hash_of, known, write
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CodeRangeError, CorpusError, StorageError
from omni_diffusion.pipelines.media_cache import MediaCache

NAMESPACE = "magvit2-0123-256"


@pytest.fixture(params=["folder", "object store"])
def root(request, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


def test_what_one_run_encoded_the_next_one_finds(root: str) -> None:
    assert known(MediaCache(root, NAMESPACE), range(5)) == [False] * 5
    write(root, range(300), NAMESPACE)
    cache = MediaCache(root, NAMESPACE)
    assert known(cache, [*range(299, -1, -1), 300, 0, 7]) == [True] * 300 + [False, True, True]
    assert len(cache) == 300 and cache.damaged == 0


WRITER = """
import os, sys
from media_files import write
root, namespace, start, stop, hangs = sys.argv[1:]
if hangs == "hangs":
    def sync(_):
        print("hangs", flush=True)
        sys.stdin.read()
    os.fsync = sync
write(root, range(int(start), int(stop)), namespace)
"""


def writer(root: Path, start: int, stop: int, hangs: str = "") -> subprocess.Popen[bytes]:
    """A process that adds files and commits them, or hangs before the commit is done."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, root, NAMESPACE, str(start), str(stop), hangs],
        env={**os.environ, "PYTHONPATH": str(Path(media_files.__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_writers_in_several_processes_add_up(tmp_path: Path) -> None:
    reader = MediaCache(tmp_path, NAMESPACE)
    for process in [writer(tmp_path, *part) for part in [(0, 40), (30, 70), (0, 40)]]:
        process.communicate()
        assert process.returncode == 0
    assert known(reader, range(100)) == [False] * 100
    assert reader.refresh() == 2, "the same commit twice is one segment"
    assert known(reader, range(100)) == [True] * 70 + [False] * 30
    assert reader.refresh() == 0


def test_a_writer_killed_in_mid_write_leaves_nothing_to_be_seen(tmp_path: Path) -> None:
    process = writer(tmp_path, 0, 10, "hangs")
    assert process.stdout.readline() == b"hangs\n"
    process.kill()
    process.communicate()
    assert list((tmp_path / NAMESPACE).iterdir()), "it had begun"
    cache = MediaCache(tmp_path, NAMESPACE)
    assert known(cache, range(10)) == [False] * 10
    assert (len(cache), cache.damaged) == (0, 0)
    write(tmp_path, range(10), NAMESPACE)
    assert cache.refresh() == 1 and all(known(cache, range(10)))


@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 1),
            st.one_of(
                st.lists(st.integers(0, 30), min_size=1, max_size=12),
                st.sampled_from(["commit", "refresh"]),
            ),
        ),
        max_size=15,
    )
)
def test_any_order_of_steps_gives_the_same_codes(steps) -> None:
    """Two workers that share a cache know what they added, and after a refresh what both did."""
    root = f"memory://{uuid.uuid4().hex}"
    workers = [MediaCache(root, NAMESPACE), MediaCache(root, NAMESPACE)]
    knows: list[set[int]] = [set(), set()]
    waiting: list[set[int]] = [set(), set()]
    committed: set[int] = set()
    for who, what in steps:
        if what == "commit":
            workers[who].commit()
            committed |= waiting[who]
            waiting[who] = set()
        elif what == "refresh":
            workers[who].refresh()
            knows[who] |= committed
        else:
            add(workers[who], what)
            waiting[who] |= set(what)
            knows[who] |= set(what)
        for cache, files in zip(workers, knows, strict=True):
            assert known(cache, range(31)) == [i in files for i in range(31)]


def test_the_order_of_adds_does_not_change_the_file(tmp_path: Path) -> None:
    one, other = (MediaCache(tmp_path / name, NAMESPACE) for name in "ab")
    add(one, range(20))
    add(other, [*range(19, -1, -1), 3, 4])
    assert one.commit() == other.commit() and one.commit() is None


def test_another_tokenizer_s_codes_are_never_seen(tmp_path: Path) -> None:
    write(tmp_path, range(10), NAMESPACE)
    assert known(MediaCache(tmp_path, "magvit2-0123-512"), range(10)) == [False] * 10
    shutil.copytree(tmp_path / NAMESPACE, tmp_path / "magvit2-0123-512")
    moved = MediaCache(tmp_path, "magvit2-0123-512")
    assert known(moved, range(10)) == [False] * 10 and moved.damaged == 1


@pytest.mark.parametrize("names", [("../up", ".._up"), ("a/b", "a_b"), ("é", "è"), ("", "_")])
def test_any_fingerprint_is_a_folder_of_its_own_below_the_root(names, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in names:
        write(root, [len(name)], name)
    assert [p.name for p in tmp_path.iterdir()] == ["root"] and len(list(root.iterdir())) == 2
    assert all(known(MediaCache(root, name), [len(name)]) == [True] for name in names)


def test_damage_anywhere_is_a_warning_and_never_a_wrong_code(tmp_path: Path, caplog) -> None:
    write(tmp_path, range(8), NAMESPACE)
    (path,) = (tmp_path / NAMESPACE).iterdir()
    whole = path.read_bytes()
    unseen = 0
    for at in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[at] ^= 1 << at % 8
        path.write_bytes(broken)
        caplog.clear()
        cache = MediaCache(tmp_path, NAMESPACE)
        assert known(cache, range(8)) == [False] * 8
        assert cache.damaged == len(caplog.records) == 1
        assert str(path) in caplog.text
        unseen += len(cache) == 8
    assert unseen, "some damage is only found when the codes are read"


@pytest.mark.parametrize("size", [0, 3, 100, -1])
def test_a_segment_cut_short_is_a_warning(size: int, tmp_path: Path) -> None:
    write(tmp_path, range(8), NAMESPACE)
    write(tmp_path, range(6, 12), NAMESPACE)
    path = next((tmp_path / NAMESPACE).iterdir())
    path.write_bytes(path.read_bytes()[:size])
    cache = MediaCache(tmp_path, NAMESPACE)
    found = known(cache, range(12))
    assert cache.damaged == 1 and found in (
        [True] * 8 + [False] * 4,
        [False] * 6 + [True] * 6,
    )


def test_encoding_again_puts_a_damaged_segment_right(tmp_path: Path) -> None:
    write(tmp_path, range(8), NAMESPACE)
    (path,) = (tmp_path / NAMESPACE).iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"!" + whole[101:])
    cache = MediaCache(tmp_path, NAMESPACE)
    assert not any(known(cache, range(8)))
    add(cache, range(8))
    cache.commit()
    assert path.read_bytes() == whole
    assert all(known(cache, range(8))) and all(known(MediaCache(tmp_path, NAMESPACE), range(8)))


def test_what_stands_in_a_damaged_and_a_whole_segment_is_found(tmp_path: Path) -> None:
    for part in ([1, 2], [1, 3], [1, 4]):
        write(tmp_path, part, NAMESPACE)
    for path in sorted((tmp_path / NAMESPACE).iterdir())[:2]:
        data = path.read_bytes()
        path.write_bytes(data[:4] + bytes([data[4] ^ 255]) + data[5:])
    cache = MediaCache(tmp_path, NAMESPACE)
    assert known(cache, [1]) == [True] and cache.damaged <= 2


def test_a_cache_that_is_removed_while_in_use_is_only_empty(root: str) -> None:
    write(root, range(5), NAMESPACE)
    cache, storage = MediaCache(root, NAMESPACE), Storage(root)
    for entry in storage.list():
        storage.remove(entry.name)
    assert not any(known(cache, range(5))) and cache.damaged == 0
    add(cache, range(5))
    cache.commit()
    assert all(known(cache, range(5)))


def test_a_store_that_refuses_is_not_called_damage(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path, range(5), NAMESPACE)
    cache = MediaCache(tmp_path, NAMESPACE)

    def refuse(_: Storage, name: str, *__: object) -> bytes:
        raise StorageError(name, "SlowDown")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "read", refuse)
        for use in (lambda: known(cache, [1]), lambda: MediaCache(tmp_path, NAMESPACE)):
            with pytest.raises(StorageError, match="SlowDown"):
                use()
    assert all(known(cache, range(5))) and cache.damaged == 0


def test_a_cache_in_s3_is_opened_without_moving_its_codes(monkeypatch) -> None:
    """And through a bad network it is the same cache."""
    with flaky_s3(seed=3, rate=0.1, faults=["slow_down", "reset", "lost"]) as store:
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        store.make_bucket("bucket")
        pictures = np.random.default_rng(0).integers(0, 8192, (1000, 1024))
        writer = MediaCache("s3://bucket/cache", NAMESPACE)
        for i, codes in enumerate(pictures):
            writer.add(hash_of(i), codes, 32)
        writer.commit()

        store.backend.requests.clear()
        cache = MediaCache("s3://bucket/cache", NAMESPACE)
        ranges = [r.range for r in store.backend.requests if r.method == "GET" and r.range]
        spans = [r.removeprefix("bytes=").split("-") for r in ranges]
        moved = sum(int(last) - int(first) + 1 for first, last in spans)
        whole = Storage("s3://bucket/cache").list()[0].size
        assert len(cache) == 1000 and spans and moved < 0.1 * whole
        found = cache.lookup([hash_of(i) for i in (7, 999)])
        for entry, i in zip(found, (7, 999), strict=True):
            assert np.array_equal(entry.codes, pictures[i]) and entry.height == 32
    s3fs.S3FileSystem.clear_instance_cache()


def test_threads_can_share_a_cache(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path, NAMESPACE)

    def work(start: int) -> list[bool]:
        files = range(start, start + 20)
        add(cache, files)
        cache.commit()
        return known(cache, files)

    with ThreadPoolExecutor(4) as pool:
        assert all(map(all, pool.map(work, range(0, 100, 10))))
    assert all(known(MediaCache(tmp_path, NAMESPACE), range(110)))


def test_the_index_takes_16_bytes_an_entry_and_no_more_than_it_may(tmp_path: Path) -> None:
    for start in range(0, 100, 20):
        write(tmp_path, range(start, start + 20), NAMESPACE)
    cache = MediaCache(tmp_path, NAMESPACE, max_index_entries=50)
    assert (len(cache), cache.index_bytes, cache.unindexed) == (50, 50 * 16, 50)
    assert sum(known(cache, range(100))) == 50
    add(cache, range(100, 110))
    assert all(known(cache, range(100, 110)))
    cache.commit()
    assert (len(cache), cache.unindexed) == (50, 60)
    assert not any(known(cache, range(100, 110)))


@pytest.mark.parametrize(
    "codes, height",
    [([-1], 0), ([1 << 16], 0), ([0.5], 0), ([[1]], 0), ([1, 2, 3], 2), ([1], -1), ([1], 1 << 16)],
)
def test_what_is_not_codes_is_refused(codes, height: int, tmp_path: Path) -> None:
    cache = MediaCache(tmp_path, NAMESPACE)
    with pytest.raises(CodeRangeError):
        cache.add(hash_of(0), codes, height)
    assert cache.commit() is None


def test_a_tokenizer_that_contradicts_itself_is_caught(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path, NAMESPACE)
    cache.add(hash_of(0), [1, 2], 1)
    with pytest.raises(CorpusError, match=hash_of(0).hex()):
        cache.add(hash_of(0), [1, 3], 1)
    assert cache.lookup([hash_of(0)])[0].codes.tolist() == [1, 2]
