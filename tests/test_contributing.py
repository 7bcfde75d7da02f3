"""The examples of CONTRIBUTING.md do what they say, as they stand there."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from corpora import make_corpus
from omni_diffusion.audit.audit import Audit
from omni_diffusion.audit.named import parse_query
from omni_diffusion.pipelines.sources.columns import RecordMaker
from omni_diffusion.pipelines.sources.forms import FORMS
from omni_diffusion.pipelines.sources.recipe import Columns, RowSettings
from omni_diffusion.pipelines.sources.rows import Row
from omni_diffusion.sdvi.engines.engine import SpeechError, Utterance
from omni_diffusion.tokenize.prompts import TASKS
from source_checks import read_all, texts, told

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
EXAMPLES = dict(re.findall(r"```\w+ (\w+)\n(.*?)```", PAGE, re.S))

SPEAKER = """
import io, sys, numpy, soundfile
voice, rate, text = sys.argv[1:]
assert text != "cough", "cannot say this"
sound = 0.1 * numpy.sin(numpy.arange(int(800 * len(text) / float(rate))))
file = io.BytesIO()
soundfile.write(file, sound, 8000, format="WAV")
sys.stdout.buffer.write(file.getvalue())
"""


def example(name: str) -> dict[str, Any]:
    module = ModuleType(f"example_{name}")
    sys.modules[module.__name__] = module
    exec(compile(EXAMPLES[name], f"CONTRIBUTING.md {name}", "exec"), module.__dict__)
    return module.__dict__


@pytest.mark.parametrize("name", ["source", "engine", "task", "query"])
def test_an_example_is_short(name: str) -> None:
    assert EXAMPLES[name].count("\n") < 60


def test_the_source_reads_rows_and_rejects_what_is_none(tmp_path: Path) -> None:
    names = example("source")
    (tmp_path / "a.csv").write_text("q,a\nHow many?,Two.\nWhy?,,,\nWho?,\n")
    (tmp_path / "b.csv").write_text('q,a\n"Is it, red?",Yes.\n')
    recipe = names["CsvRecipe"](
        kind="csv",
        source="set",
        path=str(tmp_path),
        tasks=("text",),
        columns=Columns(question="q", answer="a"),
    )
    found = read_all(names["CsvSource"](recipe))
    assert told(found) == ["item", "more cells than columns", "empty answer", "item"]
    assert texts(found[3]) == ["user: Is it, red?", "assistant: Yes."]


def test_the_engine_speaks_and_says_why_it_cannot() -> None:
    engine = example("engine")["CommandEngine"]((sys.executable, "-c", SPEAKER), ["ann"], "1")
    said, refused = engine.synthesize_many([Utterance("hello", "ann"), Utterance("cough", "ann")])
    assert (said.sample_rate_hz, len(said.samples)) == (8000, 4000)
    assert isinstance(refused, SpeechError)
    assert "cannot say this" in str(refused)


def test_the_task_makes_records(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in (TASKS, FORMS):  # both as they were again afterwards
        monkeypatch.setitem(table, "ocr", None)
    example("task")
    settings = RowSettings.model_construct(
        source="signs", tasks=("ocr",), columns=Columns(image="image", text="text")
    )
    (made,) = RecordMaker(settings).outcomes(0, [Row({"image": b"png", "text": "STOP"}, "a#0")])
    assert texts(made) == ["user: Read the words in this picture.\n<|image|>", "assistant: STOP"]


def test_the_query_answers(tmp_path: Path) -> None:
    query = parse_query("longest", EXAMPLES["query"])
    make_corpus(tmp_path, [3, 2])
    with Audit(tmp_path) as audit:
        rows = audit.rows(query.sql, query.values({"n": "4"}))
    contents = [row["content"] for row in rows]
    assert len(rows) == 4
    assert contents == sorted(contents, reverse=True)
