"""SQL is answered from the corpus and can do nothing else: no writing, no other files."""

from __future__ import annotations

import io
from pathlib import Path

import duckdb
import pytest

from audits import Varied
from corpora import files_of, make_corpus
from omni_diffusion.audit.answer import write_text
from omni_diffusion.audit.audit import Audit
from omni_diffusion.audit.guard import QueryError
from omni_diffusion.audit.views import VIEWS
from omni_diffusion.corpus.index import INDEX
from omni_diffusion.corpus.manifest import MANIFEST
from omni_diffusion.corpus.sidecar import sidecar_name, tar_name
from omni_diffusion.errors import CorpusError, OmniError


def test_views_have_exactly_the_documented_columns(audit: Audit) -> None:
    for name, view in VIEWS.items():
        described = audit.rows(f"DESCRIBE {name}")
        found = {row["column_name"]: row["column_type"] for row in described}
        expected = {column: kind for column, (kind, _) in view.columns.items()}
        if name == "runs":  # the precision of a time is not promised
            found = {n: kind.partition("_")[0] for n, kind in found.items()}
        assert found == expected, name


def test_statements_of_any_select_form_are_answered(audit: Audit, varied: Varied) -> None:
    n = len(varied.samples)
    assert audit.rows("FROM samples SELECT count(*) AS n") == [{"n": n}]
    assert (
        audit.rows("WITH a AS (SELECT key FROM samples) SELECT count(*) AS n FROM a")[0]["n"] == n
    )
    assert len(audit.rows("SUMMARIZE samples")) == len(VIEWS["samples"].columns)
    assert audit.rows("SELECT key FROM samples WHERE key = $key", {"key": "p3"}) == [{"key": "p3"}]
    joined = "SELECT count(*) AS n FROM samples JOIN other.samples AS o USING (key)"
    assert audit.rows(joined) == [{"n": n}]
    assert "samples" not in audit.explain("SELECT 1")
    assert "PARQUET" in audit.explain("SELECT sum(size) FROM samples").upper()


def test_runs_say_what_the_files_say(audit: Audit) -> None:
    rows = audit.rows("SELECT * FROM runs ORDER BY run")
    assert [(r["state"], r["partitions_done"], r["partitions_failed"]) for r in rows] == [
        ("failed", 2, 1),
        ("finished", 4, 0),
    ]
    assert [r["rows"] for r in rows] == [10, 11]
    assert f"{rows[1]['started']:%Y-%m-%d %H}" == "2026-01-02 10"


WRITES = [
    "DROP VIEW samples",
    "CREATE TABLE t AS SELECT 1",
    "CREATE MACRO m() AS 1",
    "COPY samples TO '{tmp}/out.csv'",
    "COPY (SELECT 1) TO '{tmp}/out.parquet'",
    "ATTACH '{tmp}/x.db'",
    "ATTACH ':memory:' AS free",
    "DETACH memory",
    "USE memory",
    "INSTALL httpfs",
    "LOAD icu",
    "LOAD '{tmp}/evil.duckdb_extension'",
    "SET memory_limit = '10GB'",
    "SET enable_external_access = true",
    "SET VARIABLE a = 1",
    "RESET lock_configuration",
    "PRAGMA enable_profiling",
    "PRAGMA database_list",
    "CALL enable_logging()",
    "CALL pragma_version()",
    "SELECT 1; DROP VIEW samples",
    "SELECT 1; SELECT 2",
    "/* SELECT */ DELETE FROM samples",
    "EXPLAIN ANALYZE COPY samples TO '{tmp}/out.csv'",
    "EXPORT DATABASE '{tmp}/x'",
    "IMPORT DATABASE '{tmp}/x'",
    "PREPARE p AS SELECT 1",
    "BEGIN TRANSACTION",
    "CHECKPOINT",
    "VACUUM",
    "INSERT INTO shards SELECT * FROM shards",
    "",
    ";",
]

REACHES = [
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('{tmp}/other.csv')",
    "SELECT * FROM read_csv('{tmp}/other.csv')",
    "SELECT * FROM READ_CSV_AUTO('{tmp}/other.csv')",
    "SELECT * FROM \"read_csv\"('{tmp}/other.csv')",
    "SELECT * FROM system.main.read_csv('{tmp}/other.csv')",
    "SELECT * FROM read_json('{tmp}/other.csv')",
    "SELECT * FROM read_parquet('{root}/index.parquet')",
    "SELECT * FROM read_parquet('corpus://main/index.parquet')",
    "SELECT * FROM parquet_scan('{root}/index.parquet')",
    "SELECT * FROM parquet_metadata('{root}/index.parquet')",
    "SELECT * FROM parquet_schema('corpus://main/index.parquet')",
    "SELECT * FROM sniff_csv('{tmp}/other.csv')",
    "SELECT * FROM '{tmp}/other.csv'",
    'SELECT * FROM "{tmp}/other.csv"',
    "FROM '{root}/index.parquet'",
    "FROM 'corpus://main/index.parquet'",
    "DESCRIBE '{tmp}/other.csv'",
    "SUMMARIZE '{tmp}/other.csv'",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM read_blob('{root}/shards/00000.tar')",
    "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "SELECT * FROM query_table('{tmp}/other.csv')",
    "SELECT * FROM histogram_values('{tmp}/other.csv', a)",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "SELECT json_serialize_plan('SELECT * FROM read_csv(''{tmp}/other.csv'')')",
    "SELECT (SELECT content FROM read_text('{tmp}/other.csv'))",
    "SELECT key FROM samples WHERE key IN (SELECT content FROM read_text('{tmp}/other.csv'))",
    "SELECT key FROM samples JOIN read_csv('{tmp}/other.csv') ON true",
    "SELECT key FROM samples, LATERAL (SELECT * FROM read_csv('{tmp}/other.csv'))",
    "SELECT key FROM samples UNION ALL SELECT content FROM read_text('{tmp}/other.csv')",
    "SELECT key FROM samples ORDER BY (SELECT count(*) FROM glob('/*'))",
    "SELECT list_transform([1], lambda x: (SELECT count(*) FROM glob('/*')))",
    "WITH t AS (FROM read_csv('{tmp}/other.csv')) SELECT * FROM t",
    "WITH RECURSIVE t AS (SELECT 1 a UNION ALL SELECT a + 1 FROM t, glob('/*')) FROM t",
    "WITH t AS MATERIALIZED (SELECT * FROM '{tmp}/other.csv') SELECT * FROM t",
    'WITH "{tmp}/other.csv" AS (SELECT 1 AS b) SELECT * FROM main."{tmp}/other.csv"',
    "WITH x AS (COPY (SELECT 1) TO '{tmp}/out.csv') SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO 'corpus://main/index.parquet' (USE_TMP_FILE false)) SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO 'corpus://main/new.parquet' (USE_TMP_FILE false)) SELECT 1",
    "WITH x AS (INSERT INTO shards SELECT * FROM shards RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM shards RETURNING *) SELECT * FROM x",
    "WITH x AS (UPDATE shards SET shard = 9 RETURNING *) SELECT * FROM x",
    "SELECT * FROM (WITH x AS (DELETE FROM shards RETURNING *) SELECT * FROM x)",
    "WITH y AS (WITH x AS (DELETE FROM shards RETURNING *) FROM x) FROM y",
    "SELECT (WITH x AS (DELETE FROM shards RETURNING shard) SELECT max(shard) FROM x)",
    "SELECT * FROM enable_logging(storage = 'file', storage_path = '{tmp}')",
    "SELECT * FROM enable_profiling(save_location = '{tmp}/profile.json')",
    "SELECT * FROM checkpoint()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_settings",
    "SELECT * FROM pragma_database_size()",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM pg_catalog.pg_class",
    "SELECT * FROM sqlite_master",
    "SELECT getenv('HOME')",
    "SELECT GETENV('HOME')",
    "SELECT 'HOME'.getenv()",
    "SELECT current_setting('temp_directory')",
    "SELECT getvariable('a')",
    "SELECT write_log('a')",
    "SELECT __internal_json_copy_to_json(1)",
    "SELECT nextval('a')",
    "SELECT * FROM system.samples",
    "SELECT * FROM nobody.main.samples",
]

DEEP = [
    "read_text('{tmp}/other.csv')",
    "read_csv('{tmp}/other.csv')",
    "read_parquet('{root}/index.parquet')",
    "read_blob('corpus://main/index.parquet/../../other.csv')",
    "read_text('file://{tmp}/other.csv')",
    "glob('{tmp}/*')",
    "glob('corpus://*')",
]
"""What DuckDB itself refuses, should the first lock ever let it through."""


@pytest.mark.parametrize("function", DEEP)
def test_duckdb_is_shut_in_even_without_the_guard(tmp_path: Path, function: str) -> None:
    root = tmp_path / "corpus"
    make_corpus(root, [2])
    (tmp_path / "other.csv").write_text("hidden treasure\n1\n")
    with Audit(root, cache=tmp_path / "cache") as audit:
        audit.rows("SELECT count(*) FROM samples")
        database = audit._database
        sql = f"SELECT * FROM {function.format(tmp=tmp_path, root=root)}"
        found: object = []
        try:
            found = database.rows(sql)
        except OmniError as error:
            found = str(error)
        assert found == [] or isinstance(found, str)  # nothing is there, or it is refused
        assert "treasure" not in str(found)
        for setting in ("enable_external_access = true", "lock_configuration = false"):
            with pytest.raises(duckdb.Error, match=r"locked|cannot be changed|Cannot"):
                database.connection.execute(f"SET {setting}")
        with pytest.raises(duckdb.Error):
            database.connection.execute("LOAD httpfs")
        with pytest.raises(duckdb.Error):
            database.connection.execute(f"ATTACH '{tmp_path}/x.db'")
        with pytest.raises(duckdb.Error):
            database.connection.execute("COPY (SELECT 1) TO 'corpus://main/index.parquet'")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus", "other.csv"]


@pytest.mark.parametrize("statement", WRITES)
def test_what_is_no_select_is_refused_before_it_runs(
    audit: Audit, tmp_path: Path, statement: str
) -> None:
    with pytest.raises(QueryError, match="expected one SELECT statement"):
        audit.query(statement.format(tmp=tmp_path))


@pytest.mark.parametrize("statement", REACHES)
def test_no_select_writes_or_reads_anything_else(tmp_path: Path, statement: str) -> None:
    root = tmp_path / "corpus"
    make_corpus(root, [2, 1])
    (tmp_path / "other.csv").write_text("hidden treasure\n1\n")
    before = files_of(tmp_path)
    with Audit(root, cache=tmp_path / "cache") as audit:
        audit.rows("SELECT count(*) FROM shards")
        with pytest.raises(OmniError) as caught:
            audit.rows(statement.format(tmp=tmp_path, root=root))
        assert "treasure" not in str(caught.value)
        assert audit.rows("SELECT count(*) AS n FROM samples, shards") == [{"n": 6}]
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("SELECT key FRM samples", ["FRM", "^^^", "views: samples, messages"]),
        ("SELECT keyy FROM samples", ["keyy", "LINE 1", "^", "views: samples"]),
        ("SELECT * FROM sample", ["sample", "did you mean samples?", "views: samples"]),
        ("SELECT nothing(key) FROM samples", ["nothing", "views: samples"]),
    ],
)
def test_mistakes_are_pointed_at(audit: Audit, statement: str, said: list[str]) -> None:
    with pytest.raises(QueryError) as caught:
        audit.rows(statement)
    for piece in said:
        assert piece in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_nothing_in_a_question_or_an_answer_commands_the_terminal(audit: Audit) -> None:
    with pytest.raises(QueryError) as caught:
        audit.rows("SELECT CAST(chr(27) || '[31m' AS INTEGER)")
    assert "\x1b" not in str(caught.value) and "[31m" in str(caught.value)
    out = io.StringIO()
    write_text(audit.query("SELECT chr(27) || 'a[red]b' AS \"\x1b[2J\""), "table", out)
    assert "\x1b" not in out.getvalue() and "a[red]b" in out.getvalue()
    with pytest.raises(QueryError, match="no Unicode character"):
        audit.rows("SELECT '\ud800'")
    for deep in ("(" * 3000 + "1" + ")" * 3000, "+".join(["1"] * 20_000)):
        with pytest.raises(QueryError, match="depth"):
            audit.rows(f"SELECT {deep}")


def test_large_intermediate_results_go_to_disk(varied: Varied, tmp_path: Path) -> None:
    inner = "SELECT DISTINCT repeat(key, 60), r FROM samples, range(4000) t(r)"
    wide = f"SELECT count(*) AS n FROM ({inner})"
    with Audit(varied.root, cache=tmp_path, memory_limit="40MB", threads=1) as audit:
        assert audit.rows(wide) == [{"n": 4000 * len(varied.samples)}]
    with pytest.raises(QueryError, match="Memory must have a number"):
        Audit(varied.root, cache=tmp_path, memory_limit="a lot")


def test_odd_names_of_folders_are_no_patterns(tmp_path: Path) -> None:
    root = tmp_path / "it's [a] *?"
    make_corpus(root, [2])
    with Audit(root, cache=tmp_path / "cache") as audit:
        assert len(audit.rows("SELECT * FROM samples JOIN messages USING (key)")) == 4


def test_an_unfinished_corpus_is_audited_as_far_as_it_goes(tmp_path: Path) -> None:
    make_corpus(tmp_path, [3, 2])
    for name in (INDEX, MANIFEST):
        (tmp_path / name).unlink()
    with Audit(tmp_path, cache=tmp_path / "cache") as audit:
        assert audit.rows("SELECT count(*) AS n, max(shard) AS s FROM samples") == [
            {"n": 5, "s": 1}
        ]
        assert any("not finished" in note for note in audit.notes)
        assert any("2 sidecars" in note for note in audit.notes)
    with pytest.raises(CorpusError, match=r"there is no corpus here.*sidecars of shards$"):
        Audit(tmp_path / "nothing")
    (tmp_path / "media").mkdir()
    (tmp_path / "media/0.tar").touch()
    with pytest.raises(CorpusError, match="become a corpus with `omni-diffusion tokenize`"):
        Audit(tmp_path / "media")


def test_missing_and_damaged_shards_are_reported(tmp_path: Path) -> None:
    make_corpus(tmp_path, [2, 2, 2, 2])
    (tmp_path / tar_name(0)).unlink()
    (tmp_path / sidecar_name(1)).unlink()
    tar = (tmp_path / tar_name(2)).read_bytes()
    (tmp_path / tar_name(2)).write_bytes(tar[:1500])
    (tmp_path / sidecar_name(3)).write_bytes(b"PAR1 no more")
    (tmp_path / tar_name(7)).write_bytes(tar)
    with Audit(tmp_path, cache=tmp_path / "cache") as audit:
        health = audit.rows(_health())
        keys = audit.rows("SELECT DISTINCT key FROM messages ORDER BY key")
        notes = " ".join(audit.notes)
    problems = {row["shard"]: row["problem"] for row in health}
    assert "the tar is missing" in problems[0]
    assert "the sidecar is missing" in problems[1]
    assert "another size than declared" in problems[2]
    assert "members end after the tar does" in problems[2]
    assert "the sidecar cannot be read" in problems[3]
    assert "the index does not know it" in problems[7]
    # What can still be read is read; what cannot is named.
    assert [row["key"] for row in keys] == ["s2", "s3", "s4", "s6", "s7"]
    assert tar_name(0) in notes
    assert tar_name(2) in notes


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    make_corpus(tmp_path, [2])
    (tmp_path / INDEX).write_bytes(b"PAR1 no more PAR1")
    with Audit(tmp_path) as audit, pytest.raises(OmniError, match=r"index\.parquet"):
        audit.rows("SELECT * FROM samples")


def test_a_run_file_that_is_none_is_noted(tmp_path: Path) -> None:
    make_corpus(tmp_path, [1])
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/a.json").write_text("{")
    (tmp_path / "runs/b.json").write_text('{"run": "b", "rows": 3}')
    with Audit(tmp_path) as audit:
        assert [(r["run"], r["rows"]) for r in audit.rows("SELECT * FROM runs")] == [("b", 3)]
        assert ["a.json" in note for note in audit.notes] == [True]


def _health() -> str:
    from omni_diffusion.audit.named import named_query

    return named_query("shard_health").sql
