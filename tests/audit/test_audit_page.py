"""`docs/audit.md`: every command on the page runs, and prints what the page says it prints."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from audits import FINGERPRINTS, make_varied
from omni_diffusion.cli import app
from omni_diffusion.errors import OmniError
from omni_diffusion.tokenize.text import TextTokenizer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/audit.md").read_text("utf-8")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


audit_page = load("audit_page")


def headings(lines: list[str]) -> list[list[str]]:
    """Column names of every table in an output."""
    return [
        [cell.strip() for cell in line.strip("┃").split("┃")]
        for line in lines
        if line.startswith("┃")
    ]


def test_every_command_of_the_page_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    text = TextTokenizer.from_pretrained("demo").fingerprint
    make_varied("corpora/demo", per_shard=12, fingerprints=FINGERPRINTS | {"text": text})
    for name, content in audit_page.files(PAGE).items():
        Path(name).write_text(content, "utf-8")
    commands = audit_page.commands(PAGE)
    assert len(commands) >= 25
    for command in commands:
        program, *arguments = shlex.split(command.text)
        assert program == "omni-diffusion"
        result = CliRunner().invoke(app, arguments)
        if command.output and command.output[0].startswith("error: "):
            assert isinstance(result.exception, OmniError), command.text
            said = f"error: {result.exception}".splitlines()
            assert said == command.output, command.text
            continue
        assert result.exit_code == 0, (command.text, result.output, result.exception)
        found = result.output.splitlines()
        assert headings(found) == headings(command.output), command.text
        if not headings(found):
            # Not a table: the same lines but for names of tasks and counts.
            assert (
                len(found) > 0
                and found[0].split(",")[0].split(":")[0]
                == (command.output[0].split(",")[0].split(":")[0])
            ), command.text


def test_the_page_answers_twenty_questions_and_names_every_plain_query() -> None:
    from omni_diffusion.audit.named import named_queries

    assert PAGE.count("\n**") >= 20
    shown = {word for command in audit_page.commands(PAGE) for word in command.text.split()}
    # What these two draw is shown by `lengths` and `codebooks`.
    assert set(named_queries()) - shown == {"length_histogram", "code_ranks"}


def test_a_page_is_rewritten_command_by_command() -> None:
    page = "a\n```console\n$ one 'x\n  y'\nold\n$ two\n```\nb\n"
    seen = []

    def run(command: str, output: list[str]) -> list[str]:
        seen.append((command, output))
        return [f"new {len(seen)}"]

    expected = "a\n```console\n$ one 'x\n  y'\nnew 1\n$ two\nnew 2\n```\nb\n"
    assert audit_page.rewrite(page, run) == expected
    assert seen == [("one 'x\n  y'", ["old"]), ("two", [])]
    assert audit_page.files("```yaml\n# a.yaml\nb: 1\n```\n") == {"a.yaml": "b: 1\n"}
