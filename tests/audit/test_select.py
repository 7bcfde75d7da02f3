"""`select`: samples chosen by SQL are a corpus that is audited, shown and trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from audits import Varied
from corpora import files_of
from omni_diffusion.audit.audit import Audit
from omni_diffusion.audit.guard import QueryError
from omni_diffusion.cli import app
from omni_diffusion.errors import CorpusError
from omni_diffusion.training.loader import Loader
from omni_diffusion.training.opening import load_data
from training_corpora import training_corpus

CLEAN = "SELECT key FROM samples WHERE task = 'tts' AND wer <= 0.03"


def run(*arguments: str, stdin: str | None = None) -> str:
    result = CliRunner().invoke(app, list(arguments), input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_gated_corpus(varied: Varied, tmp_path: Path) -> None:
    target = str(tmp_path / "clean")
    cache = ("--cache", str(tmp_path / "cache"))
    expected = [
        sample.key
        for sample in varied.samples
        if sample.record.task == "tts" and sample.record.quality.get("wer", 1) <= 0.0301
    ]
    said = run("select", varied.root, CLEAN, "-o", target, *cache)
    assert f"{len(expected)} of {len(varied.samples)} samples" in said
    files = files_of(tmp_path / "clean")
    assert "recipe.yaml" in files and CLEAN in files["recipe.yaml"].decode()
    again = json.loads(run("select", varied.root, "-", "-o", target, "--json", *cache, stdin=CLEAN))
    assert files_of(tmp_path / "clean") == files and again["rows"] == len(expected)
    assert "all well" in run("verify", target)
    assert expected[0] in run("show", target, expected[0])
    with Audit(target, cache=tmp_path / "cache") as audit:
        assert [r["key"] for r in audit.rows("SELECT key FROM samples")] == expected
        assert audit.rows("SELECT count(DISTINCT key) AS n FROM messages")[0]["n"] == len(expected)
        assert audit.rows("SELECT bool_and(subset) AS s, count(*) AS n FROM shards")[0]["s"]
        assert audit.rows("SELECT * FROM rejects") == []
    with Audit(target, against=varied.root, cache=tmp_path / "cache") as audit:
        sql = "SELECT count(*) AS n FROM samples ANTI JOIN other.samples USING (key, crc)"
        assert audit.rows(sql) == [{"n": 0}]


def test_wrong_queries_are_refused(varied: Varied, tmp_path: Path) -> None:
    target = str(tmp_path / "new")
    for sql, kind, said in (
        ("SELECT size FROM samples", QueryError, "must return a column `key`"),
        ("SELECT source, task FROM samples", QueryError, "must return a column `key`"),
        ("SELECT NULL::VARCHAR AS key FROM samples", QueryError, "are NULL"),
        ("SELECT 'x' AS key", CorpusError, "no sample has the key 'x'"),
        ("SELECT key FROM samples WHERE false", CorpusError, "no sample is chosen"),
        ("DELETE FROM samples", QueryError, "expected one SELECT"),
    ):
        with pytest.raises(kind, match=said):
            run("select", varied.root, sql, "-o", target, "--cache", str(tmp_path / "cache"))
        assert files_of(tmp_path / "new") == {}
    twice = "SELECT key FROM samples UNION ALL SELECT key FROM samples"
    out = run("select", varied.root, twice, "-o", target, "--cache", str(tmp_path / "cache"))
    assert f"{len(varied.samples)} keys were returned more than once" in out


def test_training_reads_a_subset(tmp_path: Path) -> None:
    training_corpus(tmp_path / "all", [30, 30], ["asr", "tts"], features=False)
    sql = "SELECT key FROM samples WHERE task = 'tts'"
    run("select", str(tmp_path / "all"), sql, "-o", str(tmp_path / "tts"))
    recipe = "data: {tokenizer: demo, row_length: 256, rows_per_step: 2, window_rows: 12,"
    recipe += f" sources: {{tts: {{corpus: {tmp_path}/tts}}}}}}\n"
    (tmp_path / "r.yaml").write_text(recipe)
    data, masking = load_data(tmp_path / "r.yaml")
    with Audit(tmp_path / "tts") as audit:
        keys = {row["key"] for row in audit.rows("SELECT key FROM samples")}
    with Loader(data, masking) as loader:
        batches = [loader.batch(step) for step in range(8)]
    seen = {key for batch in batches for key in batch.samples.keys}
    assert seen <= keys and len(seen) > 5
    assert {task for batch in batches for task in batch.samples.tasks} == {"tts"}
    assert all(np.any(batch.masked) for batch in batches)
    # Another choice of rows is other data.
    run("select", str(tmp_path / "all"), sql + " LIMIT 20", "-o", str(tmp_path / "fewer"))
    (tmp_path / "r.yaml").write_text(recipe.replace("/tts", "/fewer"))
    assert load_data(tmp_path / "r.yaml")[0].plan.digest != data.plan.digest
