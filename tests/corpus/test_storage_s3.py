"""A corpus in an object store is the same corpus, and nothing half-written is ever seen there."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import s3fs

from corpora import FINGERPRINTS, files_of, make_corpus, make_sample, same
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.index import compact
from omni_diffusion.corpus.media import OURS, read_media_tar
from omni_diffusion.corpus.sample import Sample
from omni_diffusion.corpus.shard import write_shard
from omni_diffusion.corpus.sidecar import tar_name
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.corpus.verify import verify
from omni_diffusion.errors import ShardConflictError, StorageError


def objects(url: str) -> dict[str, bytes]:
    """Everything that can be seen below a URL."""
    client = s3fs.S3FileSystem(use_listings_cache=False)
    root = url.removeprefix("s3://")
    return {path.removeprefix(f"{root}/"): client.cat_file(path) for path in client.find(root)}


def test_a_corpus_in_s3_is_byte_for_byte_the_local_one(bucket: str, tmp_path: Path) -> None:
    make_corpus(tmp_path, [3, 0, 2])
    url = f"{bucket}/some/prefix"
    storage = make_corpus(url, [3, 0, 2])

    assert objects(url) == files_of(tmp_path)
    assert [e.name for e in storage.list("shards")] == [
        e.name for e in Storage(tmp_path).list("shards")
    ]
    assert all(map(same, Corpus(url), Corpus(tmp_path)))
    assert len(Corpus(url)) == 5 and same(Corpus(url).get("s3"), make_sample("s3", 3))
    report = verify(url, workers=1)
    assert (report.problems, report.notes, report.rows) == ([], [], 5)


def test_looking_at_one_sample_transfers_its_bytes_alone(bucket: str, s3) -> None:
    make_corpus(bucket, [4, 4])
    corpus = Corpus(bucket)
    s3.requests.clear()
    assert same(corpus.sample(6), make_sample("s6", 6))

    first, last = corpus.index.offset[6], corpus.index.offset[6] + corpus.index.size[6] - 1
    of_tars = [request for request in s3.requests if ".tar" in request.target]
    assert [(r.method, r.range) for r in of_tars] == [("GET", f"bytes={first}-{last}")]
    assert of_tars[0].target.endswith(tar_name(1))


def test_damage_in_s3_is_listed_by_url(bucket: str) -> None:
    storage = make_corpus(bucket, [2])
    data = bytearray(storage.read(tar_name(0)))
    data[600] ^= 1
    storage.publish_bytes(bytes(data), tar_name(0), replace=True)
    assert {p.path for p in verify(bucket, workers=1).problems} >= {f"{bucket}/{tar_name(0)}"}
    with pytest.raises(StorageError, match=f"{bucket}/{tar_name(7)}: there is no such file"):
        storage.read(tar_name(7))


def test_a_shard_written_twice_is_kept_and_another_is_refused(bucket: str) -> None:
    storage = Storage(bucket)
    write_shard(storage, 0, [make_sample("a", 1)], FINGERPRINTS)
    before = objects(bucket)
    write_shard(storage, 0, [make_sample("a", 1)], FINGERPRINTS)
    assert objects(bucket) == before
    with pytest.raises(ShardConflictError, match=f"{bucket}/{tar_name(0)}: exists already"):
        write_shard(storage, 0, [make_sample("a", 2)], FINGERPRINTS)
    assert objects(bucket) == before
    storage.remove(tar_name(0))
    storage.remove(tar_name(0))
    assert storage.size(tar_name(0)) is None and storage.size("shards") is None


def test_of_writers_that_race_one_wins_and_the_others_are_told(bucket: str) -> None:
    def publish(data: bytes) -> bytes | None:
        try:
            Storage(bucket).publish_bytes(data, "x")
        except ShardConflictError:
            return None
        return data

    versions = [b"same"] * 3 + [b"other"] * 3
    with ThreadPoolExecutor(6) as pool:
        published = set(pool.map(publish, versions))
    assert published == {None, Storage(bucket).read("x")}


def test_what_others_publish_is_listed_at_once(bucket: str) -> None:
    storage, other = Storage(bucket), s3fs.S3FileSystem(skip_instance_cache=True)
    storage.publish_bytes(b"1", "shards/a")
    assert [entry.name for entry in storage.list("shards")] == ["shards/a"]
    other.pipe_file(f"{bucket}/shards/b", b"22")
    assert [(entry.name, entry.size) for entry in storage.list("shards")] == [
        ("shards/a", 1),
        ("shards/b", 2),
    ]
    assert storage.size("shards/b") == 2


def test_a_put_that_meets_another_one_is_tried_again(bucket: str, s3) -> None:
    """S3 answers 409 while another conditional put of the same object is under way."""
    with s3.failing("PUT", "/x$", 409, "ConditionalRequestConflict", times=2) as refused:
        Storage(bucket).publish_bytes(b"1", "x")
    assert len(refused) == 2 and Storage(bucket).read("x") == b"1"


LARGE_SHARD_MIB = 101
"""s3fs sends 100 MiB and more in parts."""


def large_samples() -> list[Sample]:
    small = make_sample("large", 1)
    streams = {**small.streams, "text": np.zeros(1 << 18, np.uint32)}
    spans = small.spans[:0]
    record_json = small.record_json
    return [Sample(f"k{i}", streams, spans, record_json) for i in range(LARGE_SHARD_MIB)]


WRITER = """
import sys
from test_storage_s3 import FINGERPRINTS, Storage, large_samples, write_shard
write_shard(Storage(sys.argv[1]), 0, large_samples(), FINGERPRINTS)
"""


def test_a_writer_killed_in_mid_upload_leaves_nothing_visible(bucket, s3, tmp_path) -> None:
    paths = os.pathsep.join(
        map(str, (Path(__file__).parent, Path(__file__).parents[1] / "support"))
    )
    environment = {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(tmp_path)}
    with s3.holding("PUT", "partNumber=2") as in_mid_upload:
        writer = subprocess.Popen([sys.executable, "-c", WRITER, bucket], env=environment)
        try:
            assert in_mid_upload.wait(60)
            assert objects(bucket) == {}
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
    assert objects(bucket) == {}

    storage = Storage(bucket)
    write_shard(storage, 0, large_samples(), FINGERPRINTS)
    compact(storage)
    assert sum("uploads" in r.target and r.method == "POST" for r in s3.requests) == 2
    assert Corpus(bucket).get("k7").stream_length("text") == 1 << 18


def test_a_refused_part_is_an_error_and_leaves_nothing(bucket: str, s3, tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(LARGE_SHARD_MIB << 20)
    with (
        s3.failing("PUT", "partNumber=2", 403, "AccessDenied"),
        pytest.raises(StorageError, match=f"{bucket}/{tar_name(0)}: AccessDenied"),
    ):
        Storage(bucket).publish(path, tar_name(0))
    assert objects(bucket) == {}


@pytest.mark.parametrize("verb", ["list", "publish", "read", "size"])
@pytest.mark.parametrize("fault", ["no bucket", "no credentials", "unreachable", "overloaded"])
def test_a_store_that_cannot_be_used_is_named(fault: str, verb: str, s3, monkeypatch) -> None:
    url = "s3://no-such-bucket-here/prefix"
    if fault == "no credentials":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    if fault == "unreachable":
        with socket.create_server(("127.0.0.1", 0)) as closed:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
    storage = Storage(url)
    uses = {
        "list": lambda: storage.list("shards"),
        "publish": lambda: storage.publish_bytes(b"1", "x"),
        "read": lambda: storage.read("x", 0, 1),
        "size": lambda: storage.size("x"),
    }
    if fault == "no bucket" and verb == "size":
        assert uses[verb]() is None
        return
    status, code = (503, "Busy") if fault == "overloaded" else (404, "NoSuchBucket")
    with (
        s3.failing("GET", "", status, code),
        s3.failing("HEAD", "", status, code),
        s3.failing("PUT", "", status, code),
        pytest.raises(StorageError, match=url),
    ):
        uses[verb]()
    assert len(s3.requests) <= 5


def test_a_store_that_fails_in_mid_read_is_not_called_a_damaged_archive(bucket: str, s3) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.json"), io.BytesIO())
    storage = Storage(bucket)
    storage.publish_bytes(sink.getvalue(), "a.tar")
    assert len(list(read_media_tar(storage, "a.tar", OURS))) == 1
    with (
        s3.failing("GET", "a.tar", 403, "AccessDenied"),
        pytest.raises(StorageError, match=f"{bucket}/a.tar: AccessDenied"),
    ):
        list(read_media_tar(storage, "a.tar", OURS))


def test_workers_that_are_forked_can_read_what_their_parent_has_opened(bucket: str) -> None:
    storage = make_corpus(bucket, [2])
    corpus = Corpus(storage.root)
    assert corpus.sample(0).key == "s0"
    worker = multiprocessing.get_context("fork").Process(target=corpus.sample, args=(1,))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
