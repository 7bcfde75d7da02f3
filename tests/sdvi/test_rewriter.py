"""A rewriter is any program; what it does wrong is said in words."""

from __future__ import annotations

import sys

import pytest

from omni_diffusion.sdvi.rewriter import CommandRewriter, RewriteError, RewriterRecipe

READ = "import json, sys; rows = [json.loads(line) for line in sys.stdin]\n"
WRITE = "\nfor row in rows: print(json.dumps(row))"


def rewriter(program: str, timeout_s: float = 60.0) -> CommandRewriter:
    command = (sys.executable, "-c", program)
    return CommandRewriter(RewriterRecipe(command=command, timeout_s=timeout_s))


def test_texts_come_back_in_order_whatever_order_the_program_chose() -> None:
    program = READ + "for row in rows: row['text'] += '!' + row.pop('kind')\nrows.reverse()" + WRITE
    texts = [("question", "Was\n\u00e4?"), ("answer", "b"), ("caption", "")]
    assert rewriter(program)(texts) == ["Was\n\u00e4?!question", "b!answer", "!caption"]  # type: ignore[arg-type]
    assert rewriter("raise SystemExit(1)")([]) == []


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("raise SystemExit('out of memory')", "out of memory"),
        (READ + "rows.pop()" + WRITE, "did not answer 1 of 2"),
        (READ + "rows.append(rows[0])" + WRITE, "id 0 twice"),
        (READ + "rows[0]['id'] = 7" + WRITE, "id 7"),
        (READ + "rows[0]['text'] = None" + WRITE, "line 1"),
        ("print('sure, here you go')", "line 1"),
        ("import time; time.sleep(30)", "took over"),
    ],
)
def test_faults_are_named(program: str, message: str) -> None:
    limit_s = 0.5 if "sleep" in program else 60.0
    with pytest.raises(RewriteError, match=message):
        rewriter(program, limit_s)([("question", "a"), ("answer", "b")])


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(RewriteError, match="no-such-program"):
        CommandRewriter(RewriterRecipe(command=("no-such-program",)))([("answer", "a")])
