"""A corpus in an object store is audited as a local one, and nothing is written there."""

from __future__ import annotations

from pathlib import Path

import pytest

from audits import make_varied
from omni_diffusion.audit.audit import Audit
from omni_diffusion.audit.named import named_queries
from omni_diffusion.audit.select import select
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.sidecar import tar_name
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.corpus.verify import verify
from omni_diffusion.errors import OmniError


def test_every_answer_is_that_of_the_local_corpus(bucket: str, s3, tmp_path: Path) -> None:
    local = make_varied(tmp_path / "local", per_shard=6)
    url = f"{bucket}/a/b"
    make_varied(url, per_shard=6)
    s3.requests.clear()
    questions = [
        (query.sql, query.values({}))
        for query in named_queries().values()
        if not query.needs_run and not query.compares
    ]
    questions += [
        ("SELECT * FROM messages ORDER BY key, message", {}),
        ("SELECT * FROM media ORDER BY key, span", {}),
        ("SELECT * FROM runs ORDER BY run", {}),
    ]
    with (
        Audit(url, cache=tmp_path / "one") as remote,
        Audit(local.root, cache=tmp_path / "two") as here,
    ):
        for sql, values in questions:
            assert remote.rows(sql, values) == here.rows(sql, values), sql
        assert remote.notes == here.notes == []
    assert {request.method for request in s3.requests} <= {"GET", "HEAD"}


def test_a_subset_of_a_remote_corpus(bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/all"
    varied = make_varied(url, per_shard=4)
    sql = "SELECT key FROM samples WHERE task = 'tts'"
    with Audit(url, cache=tmp_path / "cache") as audit:
        for target in (f"{bucket}/some", str(tmp_path / "some")):
            manifest, _ = select(audit, sql, target, source=url)
            assert manifest.base == url
            keys = [s.key for s in varied.samples if s.record.task == "tts"]
            assert [s.key for s in Corpus(target)] == keys
            assert verify(target, workers=1).problems == []


def test_a_shard_that_is_gone_is_named(bucket: str, tmp_path: Path) -> None:
    varied = make_varied(bucket, per_shard=4)
    Storage(bucket).remove(tar_name(1))
    with Audit(bucket, cache=tmp_path / "cache") as audit:
        found = {row["key"] for row in audit.rows("SELECT DISTINCT key FROM messages")}
        problems = {
            row["shard"]: row["problem"] for row in audit.rows(named_queries()["shard_health"].sql)
        }
        notes = " ".join(audit.notes)
    assert found == {s.key for s in varied.samples} - {s.key for s in varied.shards[1]}
    assert problems[1] == "the tar is missing" and f"{bucket}/{tar_name(1)}" in notes


def test_what_a_store_says_reaches_the_user(bucket: str, s3, tmp_path: Path) -> None:
    make_varied(bucket, per_shard=4)
    with (
        Audit(bucket, cache=tmp_path / "cache") as audit,
        s3.failing("GET", r"index\.parquet", 403, "AccessDenied"),
        pytest.raises(OmniError, match=r"index\.parquet") as caught,
    ):
        audit.rows("SELECT count(DISTINCT key) FROM samples")
    assert "Traceback" not in str(caught.value)
