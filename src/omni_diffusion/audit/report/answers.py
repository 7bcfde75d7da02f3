"""The named queries of a report, section by section, and what the corpus answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omni_diffusion.audit.audit import Audit
from omni_diffusion.audit.named import NamedQuery, named_queries
from omni_diffusion.audit.report.charts import Chart, Row, chart
from omni_diffusion.audit.report.text import cell, heading
from omni_diffusion.errors import OmniError

FITTING = "fitting"
"""Stands for a width of bins that suits the corpus's longest sample."""

_BINS = 32

MOST_ROWS = 60
"""Of a table on the page; `audit --view` prints them all."""

_MOST_FETCHED = 5000


@dataclass(frozen=True, kw_only=True)
class Question:
    """A named query with its settings, and the title that they give it."""

    query: str
    settings: Mapping[str, str]
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A named query and what came of it.

    Attributes:
        title: for people.
        summary: what is asked, in a sentence.
        about: more of it; perhaps nothing.
        command: how to ask it again.
        chart: the drawing, if there is one.
        columns: of the table, and whether each holds numbers.
        rows: the table in words.
        hidden: rows that are not shown; the last ones.
        fault: why there is no answer, or nothing.
    """

    title: str
    summary: str
    about: str
    command: str
    chart: Chart | None
    columns: list[tuple[str, bool]]
    rows: list[list[str]]
    hidden: int
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading of the page.

    Attributes:
        anchor: in links to it.
        questions: what is asked in it.
        of_tokens: whether a media corpus, which has none, is not asked.
        empty: what is said where no question has an answer.
    """

    anchor: str
    title: str
    questions: Sequence[Question]
    empty: str = "Nothing to show."
    of_tokens: bool = False


def _ask(query: str, title: str = "", **settings: str) -> Question:
    return Question(query=query, settings=settings, title=title)


SECTIONS = (
    Section(
        anchor="mixture",
        title="Mixture",
        questions=(
            _ask("planned"),
            _ask("mixture", "By task", by="task"),
            _ask("mixture", "By source", by="source"),
            _ask("mixture", "By language", by="language"),
        ),
    ),
    Section(
        anchor="lengths",
        title="Lengths",
        questions=(_ask("lengths"), _ask("length_histogram", bin=FITTING)),
        of_tokens=True,
    ),
    Section(
        anchor="packing",
        title="Packing fill",
        questions=(_ask("packing_steps"), _ask("packing")),
        of_tokens=True,
    ),
    Section(
        anchor="codebooks",
        title="Code books",
        questions=(_ask("codebooks"), _ask("code_ranks"), _ask("top_codes", top="10")),
        empty="The corpus holds no codes of pictures or speech.",
        of_tokens=True,
    ),
    Section(
        anchor="voices",
        title="Voices",
        questions=(_ask("speakers"), _ask("voices"), _ask("voice_holes")),
        empty="No sample names a voice.",
    ),
    Section(
        anchor="duplicates",
        title="Duplicates",
        questions=(_ask("duplicates"), _ask("duplicate_samples", limit="10"), _ask("leakage")),
    ),
    Section(
        anchor="gates",
        title="Quality gates",
        questions=(_ask("gate"),),
        empty="No error rate was measured in this corpus.",
    ),
    Section(
        anchor="rejects",
        title="Rejects",
        questions=(_ask("rejects"),),
        empty="No record was rejected.",
    ),
    Section(
        anchor="provenance",
        title="Provenance and licences",
        questions=(_ask("provenance"),),
    ),
    Section(anchor="shards", title="Shards", questions=(_ask("shard_health"),)),
)


def sections() -> Iterator[Section]:
    """All sections; named queries that none of them knows come in one of their own."""
    yield from SECTIONS
    known = {question.query for section in SECTIONS for question in section.questions}
    if others := [_ask(name) for name in named_queries() if name not in known]:
        yield Section(anchor="more", title="More questions", questions=others)


def applies(question: Question, *, compares: bool, has_run: bool) -> bool:
    """Whether a question can be asked: some need a second corpus or a training run."""
    query = named_queries()[question.query]
    return (compares or not query.compares) and (has_run or not query.needs_run)


def ask(audit: Audit, question: Question, longest: int) -> Answer:
    """Ask one named query; an error becomes part of the answer, so that the others are heard.

    Args:
        audit: the corpus.
        question: the query and its settings.
        longest: ids of the corpus's longest sample.
    """
    query = named_queries()[question.query]
    title = question.title or query.title
    fitting = str(2 ** max(0, (longest // _BINS).bit_length()))
    told_settings = {n: fitting if v == FITTING else v for n, v in question.settings.items()}
    settings = "".join(f" --set {name}={value}" for name, value in told_settings.items())
    summary = query.summary
    about = query.about.removeprefix(summary).replace("(Reads the tars once.)", "").strip()
    told: dict[str, Any] = {"title": title, "summary": summary, "about": about}
    told["command"] = f"--view {query.name}{settings}"
    try:
        rows, more = _rows(audit, query, query.values(told_settings))
    except OmniError as error:
        fault = str(error)
        return Answer(**told, chart=None, columns=[], rows=[], hidden=0, fault=fault)
    names = list(rows[0]) if rows else []
    columns = [(heading(name), _holds_numbers(rows, name)) for name in names]
    table = [[cell(row[name], name) for name in names] for row in rows[:MOST_ROWS]]
    hidden = max(0, len(rows) - MOST_ROWS) + more
    drawn = chart(query.plot, rows)
    return Answer(**told, chart=drawn, columns=columns, rows=table, hidden=hidden)


def _rows(audit: Audit, query: NamedQuery, values: Mapping[str, Any]) -> tuple[list[Row], int]:
    """The first rows of an answer, and how many follow them."""
    rows: list[Row] = []
    more = 0
    for batch in audit.query(query.sql, values):
        room = _MOST_FETCHED - len(rows)
        rows += batch.slice(0, room).to_pylist()
        more += max(0, batch.num_rows - room)
    return rows, more


def _holds_numbers(rows: Sequence[Row], name: str) -> bool:
    values = [row[name] for row in rows if row[name] is not None]
    return bool(values) and all(isinstance(value, int | float) for value in values)
