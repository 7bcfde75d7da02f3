"""`omni-diffusion audit` as a user types it: forms, files, named queries, a training run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from audits import Varied
from omni_diffusion.audit.guard import QueryError
from omni_diffusion.audit.named import named_queries
from omni_diffusion.audit.views import VIEWS
from omni_diffusion.cli import app
from omni_diffusion.training.opening import load_data
from training_corpora import training_corpus

COUNT = "SELECT task, count(*) AS n FROM samples GROUP BY task ORDER BY task"


def run(*arguments: str, stdin: str | None = None) -> str:
    result = CliRunner().invoke(app, ["audit", *arguments], input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def test_one_answer_in_every_form(varied: Varied, tmp_path: Path) -> None:
    root = varied.root
    rows = json.loads(run(root, COUNT, "--format", "json"))
    assert [row["task"] for row in rows] == ["t2i", "tts", "vqa"]
    table = run(root, COUNT)
    assert "(3 rows)" in table and all(str(row["n"]) in table for row in rows)
    assert list(csv.reader(run(root, "-", "--format", "csv", stdin=COUNT).splitlines())) == [
        ["task", "n"],
        *([row["task"], str(row["n"])] for row in rows),
    ]
    for name in ("a.json", "a.csv", "a.parquet", "a.txt"):
        assert run(root, COUNT, "-o", str(tmp_path / name)) == f"{tmp_path / name}: 3 rows\n"
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == rows
    assert json.loads((tmp_path / "a.json").read_text()) == rows
    assert (tmp_path / "a.txt").read_text() == table
    assert "only 1 are shown" in run(root, COUNT, "--limit", "1")
    assert "PARQUET" in run(root, COUNT, "--explain").upper()


def test_views_lists_every_column_and_query() -> None:
    text = run("--views")
    for name, view in VIEWS.items():
        assert f"{name}: a row is" in text
        assert all(column in text for column in view.columns)
    found = json.loads(run("--views", "--format", "json"))
    assert set(found["views"]) == set(VIEWS)
    assert set(found["queries"]) == set(named_queries())
    assert found["queries"]["gate"]["plot"]["by"] == "language"
    assert run("--view", "lengths", "--sql").strip().startswith("WITH counts")


def test_every_named_query_names_its_columns_in_its_plot(varied: Varied, cache: str) -> None:
    for name, query in named_queries().items():
        if query.needs_run:
            continue
        options = ["--against", varied.root] if query.compares else []
        out = run(varied.root, "--view", name, "--format", "csv", "--cache", cache, *options)
        columns = out.splitlines()[0].split(",")
        plot = query.plot
        used = {*plot.y, *([plot.by] if plot.by else []), *([plot.x] if plot.x else [])}
        assert used <= set(columns), name
        assert query.title != name and query.about, name
        assert bool(used) == (plot.kind != "table"), name


def test_mistakes_are_answered(varied: Varied, tmp_path: Path) -> None:
    for arguments, said in (
        ((varied.root,), "either SQL, --view"),
        ((varied.root, COUNT, "--view", "gate"), "either SQL, --view"),
        ((varied.root, "--view", "leakage"), "--against"),
        ((varied.root, "--view", "planned"), "--run"),
        ((varied.root, "--view", "gate", "--set", "measure"), "NAME=VALUE"),
        ((varied.root, COUNT, "--set", "a=b"), "for named queries"),
        ((varied.root, COUNT, "-o", str(tmp_path / "a.xls")), "say with --format"),
    ):
        with pytest.raises(QueryError, match=said):
            run(*arguments)


RECIPE = """
data:
  tokenizer: demo
  row_length: 512
  rows_per_step: 4
  window_rows: 24
  sources:
    heard: {{corpus: {folder}/heard, weight: 3}}
    coded: {{corpus: {folder}/coded}}
masking: {{preset: paper}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    training_corpus(folder / "heard", [30, 30], ["asr", "tts"])
    training_corpus(folder / "coded", [30], ["t2i", "text"], features=False)
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder))
    return folder / "recipe.yaml"


def test_batches_are_the_steps_of_the_plan(recipe: Path, cache: str) -> None:
    heard = str(recipe.parent / "heard")
    options = ("--run", str(recipe), "--steps", "14", "--cache", cache, "--format", "json")
    rows = json.loads(run(heard, "SELECT * FROM batches ORDER BY step, row", *options))
    data, _ = load_data(recipe)
    for step in range(14):
        planned = data.plan.step(step)
        mine = [row for row in rows if row["step"] == step]
        assert sorted((r["row"], r["length"] + r["tail_pads"], r["epoch"]) for r in mine) == sorted(
            zip(planned.row.tolist(), planned.length.tolist(), planned.epoch.tolist(), strict=True)
        )
        keys = [
            data.sources[s].places(planned.index[i : i + 1])[0].key
            for i, s in enumerate(planned.source.tolist())
        ]
        assert sorted(keys) == sorted(row["key"] for row in mine)
    # The keys of this corpus join with its samples, and say the same of them.
    sql = """SELECT count(*) AS n, count(*) FILTER (s.supervised_len = b.supervised_len
        AND coalesce(s.task, 'other') = b.task AND b.length <= s.sequence_len) AS agree
        FROM batches AS b JOIN samples AS s USING (key) WHERE part = 'heard'"""
    [found] = json.loads(run(heard, sql, *options))
    assert found["n"] == found["agree"] == sum(row["part"] == "heard" for row in rows)


def test_batches_of_a_run_are_the_steps_that_it_has_done(
    recipe: Path, cache: str, tmp_path: Path
) -> None:
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (run_folder / "recipe.yaml").write_text(recipe.read_text())
    lines = [{"kind": kind, "step": step} for step in (1, 2, 3) for kind in ("train", "eval")]
    (run_folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sql = "SELECT min(step) AS first, max(step) AS last FROM batches"
    options = (str(recipe.parent / "heard"), sql, "--cache", cache, "--format", "json")

    def found(*more: str) -> list[dict[str, int]]:
        rows: list[dict[str, int]] = json.loads(run(*options, "--run", str(run_folder), *more))
        return rows

    assert found() == [{"first": 0, "last": 2}]
    assert found("--steps", "30:32") == [{"first": 30, "last": 31}]
    assert found("--steps", "2") == [{"first": 0, "last": 1}]
    for wrong in ("0", "5:5", "a", "1:b", "-3", "7:"):
        with pytest.raises(QueryError, match="FIRST:END"):
            found("--steps", wrong)


def test_the_planned_mixture_is_held_against_the_weights(recipe: Path, cache: str) -> None:
    heard = str(recipe.parent / "heard")
    folder = str(recipe.parent)  # a run is a folder with its recipe
    options = ("--run", folder, "--steps", "48", "--cache", cache, "--format", "json")
    rows = json.loads(run(heard, "--view", "planned", *options))
    assert [(r["part"], r["configured_share"]) for r in rows] == [("heard", 0.75), ("coded", 0.25)]
    assert all(abs(row["difference"]) < 0.02 for row in rows)
    assert all(row["first_step"] < 3 and row["last_step"] > 44 for row in rows)
    fill = json.loads(run(heard, "--view", "packing_steps", *options))
    assert len(fill) == 48 and all(0.5 < row["fill"] <= 1 for row in fill)
