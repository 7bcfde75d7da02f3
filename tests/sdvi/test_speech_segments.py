"""The cache gives back what was put in, or nothing; damage is never given back."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.corpus.storage import Storage
from omni_diffusion.sdvi import segments
from omni_diffusion.sdvi.segments import SegmentStore


def key(n: int) -> bytes:
    return n.to_bytes(16, "big")


def value(n: int) -> bytes:
    return f"value {n} ".encode() * (n % 50)


@given(st.dictionaries(st.binary(min_size=16, max_size=16), st.binary(max_size=200), min_size=1))
def test_what_was_committed_is_found_by_others(values: dict[bytes, bytes]) -> None:
    store = SegmentStore(f"memory://segments/{hash(tuple(sorted(values.items())))}")
    for k, v in values.items():
        store.add(k, v)
    assert store.lookup(list(values)) == list(values.values()), "at once, here"
    store.commit()
    store.commit()
    other = SegmentStore(store._storage.root)  # type: ignore[union-attr]
    wanted = [*reversed(list(values)), *values, b"?" * 16]
    assert other.lookup(wanted) == [values.get(k) for k in wanted]
    assert len(other) == len(values)


def test_segments_of_many_commits_are_one_store(tmp_path: Path) -> None:
    for first in range(0, 300, 50):
        store = SegmentStore(str(tmp_path))
        for n in range(first, first + 60):  # some are committed twice
            store.add(key(n), value(n))
        store.commit()
    late = SegmentStore(str(tmp_path))
    assert late.lookup([key(n) for n in range(310)]) == [value(n) for n in range(310)]
    assert len(Storage(tmp_path).list()) == 6


def test_equal_entries_are_equal_files_in_any_order(tmp_path: Path) -> None:
    for order in (range(20), reversed(range(20))):
        store = SegmentStore(str(tmp_path))
        store.add(key(999), b"")
        for n in order:
            store.add(key(n), value(n))
        store.commit()
    assert len(Storage(tmp_path).list()) == 1


def test_full_segments_are_committed_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is killed loses a segment's worth at most."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1_000)
    store = SegmentStore(str(tmp_path))
    for n in range(100):
        store.add(key(n), b"x" * 99)
    assert len(SegmentStore(str(tmp_path))) >= 90


def _add(root: str, first: int) -> None:
    store = SegmentStore(root)
    for n in range(first, first + 200):
        store.add(key(n), value(n))
        if n % 40 == 0:
            store.commit()
    store.commit()


def test_processes_share_a_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add, args=(str(tmp_path), n)) for n in (0, 100)]
    for worker in workers:
        worker.start()
    reader = SegmentStore(str(tmp_path))
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    reader.refresh()
    assert reader.lookup([key(n) for n in range(300)]) == [value(n) for n in range(300)]
    assert not [e for e in Storage(tmp_path).list() if ".tmp-" in e.name]


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    """A damaged value is unknown, so it is made again; it is never somebody's speech."""
    store = SegmentStore(str(tmp_path))
    wanted = [key(n) for n in range(1, 6)]
    for n in range(1, 6):
        store.add(key(n), value(n))
    store.commit()
    (entry,) = Storage(tmp_path).list()
    file = tmp_path / entry.name
    good = file.read_bytes()
    for at in range(len(good)):
        file.write_bytes(good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :])
        damaged = SegmentStore(str(tmp_path))
        for n, found in zip(range(1, 6), damaged.lookup(wanted), strict=True):
            assert found in (None, value(n)), at
        assert damaged.damaged, at
    for length in (0, 7, 40, len(good) - 1):
        file.write_bytes(good[:length])
        assert None in SegmentStore(str(tmp_path)).lookup(wanted)


def test_a_damaged_segment_is_mended_by_the_same_commit(tmp_path: Path) -> None:
    for _ in range(2):
        store = SegmentStore(str(tmp_path))
        store.add(key(1), value(1))
        store.commit()
        (entry,) = Storage(tmp_path).list()
        assert SegmentStore(str(tmp_path)).lookup([key(1)]) == [value(1)]
        (tmp_path / entry.name).write_bytes(b"damage")


def test_without_a_root_entries_live_until_the_commit() -> None:
    store = SegmentStore(None)
    store.add(key(1), b"one")
    assert store.lookup([key(1), key(2)]) == [b"one", None]
    store.commit()
    assert store.lookup([key(1)]) == [None]
