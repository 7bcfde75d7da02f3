"""A shard exists whole or not at all, and its bytes depend on nothing but its samples."""

import io
import os
import resource
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora import FINGERPRINTS, files_of, make_corpus, make_sample, same, samples
from omni_diffusion.corpus import tar
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.index import compact
from omni_diffusion.corpus.rejects import Reject, read_rejects
from omni_diffusion.corpus.shard import ShardReader, ShardWriter, write_shard
from omni_diffusion.corpus.sidecar import sidecar_name, tar_name
from omni_diffusion.corpus.storage import TEMPORARY, Storage
from omni_diffusion.errors import CorpusError, RecordError, ShardConflictError, StorageError

LISTS = st.lists(samples(), max_size=4, unique_by=lambda sample: sample.key)


@given(LISTS)
def test_every_sample_comes_back_and_bytes_are_repeatable(tmp_path_factory, made) -> None:
    one, two = (tmp_path_factory.mktemp("corpus") for _ in range(2))
    for folder in (one, two):
        write_shard(Storage(folder), 0, made, FINGERPRINTS)
        compact(Storage(folder))
    assert files_of(one) == files_of(two)
    assert all(same(a, b) for a, b in zip(Corpus(one), made, strict=True))
    for sample in made:
        assert same(Corpus(one).get(sample.key), sample)


def test_a_shard_is_a_plain_tar_with_no_clock_and_no_owner(tmp_path: Path) -> None:
    make_corpus(tmp_path, [3])
    with tarfile.open(tmp_path / tar_name(0)) as archive:
        members = archive.getmembers()
    assert [m.name for m in members] == ["s0.omni", "s1.omni", "s2.omni"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}


def test_writing_the_same_shard_again_changes_nothing(tmp_path: Path) -> None:
    storage = make_corpus(tmp_path, [2])
    before = files_of(tmp_path)
    write_shard(storage, 0, [make_sample("s0", 0), make_sample("s1", 1)], FINGERPRINTS)
    assert files_of(tmp_path) == before


def test_two_writers_that_disagree_are_told_and_the_first_is_kept(tmp_path: Path) -> None:
    storage = make_corpus(tmp_path, [2])
    before = files_of(tmp_path)
    with pytest.raises(ShardConflictError, match=tar_name(0)):
        write_shard(storage, 0, [make_sample("other", 9)], FINGERPRINTS)
    assert files_of(tmp_path) == before


def test_an_error_in_the_block_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ShardWriter(Storage(tmp_path), 0, FINGERPRINTS) as shard:
        shard.add(make_sample("a"))
        raise RuntimeError
    assert files_of(tmp_path) == {}


@pytest.mark.parametrize("published", [0, 1, 2, 3])
def test_a_writer_killed_between_any_two_steps_can_simply_be_repeated(
    tmp_path: Path, monkeypatch, published: int
) -> None:
    def write(folder: Path) -> None:
        rejects = [Reject(key="bad", stage="decode", reason="truncated")]
        write_shard(Storage(folder), 0, [make_sample("a")], FINGERPRINTS, rejects)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    write(whole)
    steps = 0
    real = Storage.publish

    def publish(self, path, name, *, replace=False) -> None:
        nonlocal steps
        if steps == published:
            raise KeyboardInterrupt
        steps += 1
        real(self, path, name, replace=replace)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "publish", publish)
        if published < 3:
            with pytest.raises(KeyboardInterrupt):
                write(broken)
            assert not (broken / sidecar_name(0)).exists()
        else:
            write(broken)
    write(broken)
    assert files_of(broken) == files_of(whole)


def test_a_writer_killed_with_sigkill_leaves_no_shard(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from corpora import FINGERPRINTS, make_sample\n"
        "from omni_diffusion.corpus.shard import ShardWriter\n"
        "from omni_diffusion.corpus.storage import Storage\n"
        "with ShardWriter(Storage(sys.argv[1]), 0, FINGERPRINTS) as shard:\n"
        "    shard.add(make_sample('a'))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert [Path(n).name.startswith(TEMPORARY) for n in files_of(tmp_path)] == [True]
    write_shard(Storage(tmp_path), 0, [make_sample("a")], FINGERPRINTS)
    assert Corpus(make_finished(tmp_path)).get("a").key == "a"


def make_finished(folder: Path) -> Path:
    compact(Storage(folder))
    return folder


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StorageError, match=tar_name(0)):
            write_shard(
                Storage(tmp_path), 0, (make_sample(f"s{i}", i) for i in range(99)), FINGERPRINTS
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files_of(tmp_path) == {}


def test_in_is_out_plus_rejects_even_when_nothing_is_out(tmp_path: Path) -> None:
    rejects = [Reject(key=f"k{i}", stage="decode", reason="noise") for i in range(3)]
    write_shard(Storage(tmp_path), 0, [], FINGERPRINTS, rejects)
    manifest = compact(Storage(tmp_path))
    assert (manifest.rows, manifest.rejects, manifest.shards) == (0, 3, 1)
    assert read_rejects(Storage(tmp_path), 0) == rejects


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="twice"):
        write_shard(Storage(tmp_path), 0, [make_sample("a"), make_sample("a")], FINGERPRINTS)
    assert files_of(tmp_path) == {}


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def member(name: str, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


GOOD = tar.member_header("a.omni", 3) + b"abc" + tar.padding(3) + tar.END


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (GOOD[:-1024], "truncated.*no end-of-archive"),
        (GOOD[:600], "truncated: member a.omni claims bytes up to 515 of 600"),
        (GOOD[:100], "truncated"),
        (GOOD + b"x", "damaged end"),
        (archive_of((member("../a.omni"), b"x")), "leaves the archive"),
        (archive_of((member("/a.omni"), b"x")), "leaves the archive"),
        (archive_of((member("a", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b"")), "regular"),
        (archive_of((member("a", type=tarfile.LNKTYPE, linkname="b"), b"")), "not a regular file"),
        (archive_of((member("a.omni", mtime=5), b"x")), "not written with"),
        (archive_of((member("p" * 60 + "/" + "a" * 60), b"x")), "leaves the archive"),
        (tar.member_header("a.omni", 2 << 30) + b"abc" + tar.END, "claims bytes up to 2147484160"),
        (GOOD.replace(b"ustar", b"vstar"), "not a USTAR header"),
        (b"\x89PNG" + bytes(2000), "not a USTAR header"),
    ],
)
def test_a_tar_that_no_writer_makes_is_refused_by_name(tmp_path: Path, data, reason) -> None:
    path = tmp_path / "00007.tar"
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=reason) as caught:
        list(ShardReader(path).members())
    assert caught.value.path == str(path)


def test_a_read_outside_the_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "00000.tar"
    path.write_bytes(GOOD)
    with pytest.raises(CorpusError, match="truncated"):
        ShardReader(path).payload(len(GOOD) - 10, 20)
