"""Questions that ship: the files of `queries/`, one SELECT each.

A file begins with comment lines. `-- title: ...` names it for a person, `-- plot: KIND x=COLUMN
y=COLUMN[,COLUMN] [by=COLUMN] [log]` says how its answer is drawn, `-- $name = default: meaning`
declares a parameter; the other comments say what the query answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from omni_diffusion.audit.guard import QueryError

Value = int | float | str
PlotKind = Literal["bars", "line", "heatmap", "table"]

_PARAMETER = re.compile(r"-- \$(\w+) = (\S+): (.+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """Something that a named query can be told.

    Attributes:
        default: its value where nothing is said; also decides its type.
        about: what it means.
    """

    default: Value
    about: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """How an answer is best drawn; all names are columns of the answer.

    Attributes:
        kind: `bars` (x are names), `line` (x are numbers), `heatmap` (x and `by` are names, y is
            the shade), or `table` (not drawn).
        x: the horizontal axis.
        y: one or more columns of numbers, drawn side by side.
        by: one series, or one row of a heat map, for each value of this column; else None.
        log: whether the vertical axis is logarithmic.
    """

    kind: PlotKind = "table"
    x: str = ""
    y: tuple[str, ...] = ()
    by: str | None = None
    log: bool = False

    @classmethod
    def parse(cls, text: str) -> Plot:
        """Read `KIND x=A y=B,C by=D log`."""
        kind, *words = text.split()
        told = dict(word.split("=") for word in words if "=" in word)
        kinds = {name: name for name in get_args(PlotKind)}
        return cls(
            kind=kinds[kind],
            x=told.get("x", ""),
            y=tuple(told["y"].split(",")) if "y" in told else (),
            by=told.get("by"),
            log="log" in words,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedQuery:
    """A question with a name.

    Attributes:
        name: of the file, and of `--view`.
        title: a heading for a person.
        about: what it answers; the first sentence is a summary.
        parameters: what it can be told.
        plot: how the answer is best drawn.
        sql: the statement.
    """

    name: str
    title: str
    about: str
    parameters: Mapping[str, Parameter]
    plot: Plot
    sql: str

    @property
    def summary(self) -> str:
        """The first sentence."""
        return re.split(r"(?<=[.?])\s", self.about, maxsplit=1)[0]

    @property
    def compares(self) -> bool:
        """Whether it needs a second corpus."""
        return "other." in self.sql

    @property
    def needs_run(self) -> bool:
        """Whether it needs the recipe of a training run."""
        return re.search(r"\bbatches\b", self.sql) is not None

    def values(self, settings: Mapping[str, str]) -> dict[str, Value]:
        """Values of all parameters.

        Args:
            settings: what the user said, as text.

        Raises:
            QueryError: an unknown parameter, or a value of another type than its default.
        """
        values: dict[str, Value] = {name: p.default for name, p in self.parameters.items()}
        for name, text in settings.items():
            if name not in values:
                known = ", ".join(values) or "none"
                raise QueryError(f"{self.name} has no parameter {name!r}; it has: {known}")
            kind = type(values[name])
            try:
                values[name] = kind(text)
            except ValueError:
                reason = f"{name} of {self.name}: {text!r} is not of the type {kind.__name__}"
                raise QueryError(reason) from None
        return values


@cache
def named_queries() -> Mapping[str, NamedQuery]:
    """All of them by name, in alphabetical order."""
    folder = files("omni_diffusion.audit") / "queries"
    found = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return {q.name: q for q in (parse_query(f.name[:-4], f.read_text("utf-8")) for f in found)}


def named_query(name: str) -> NamedQuery:
    """The query of that name.

    Raises:
        QueryError: there is none; the known names are listed.
    """
    queries = named_queries()
    if name not in queries:
        raise QueryError(f"no named query {name!r}; there are: {', '.join(queries)}")
    return queries[name]


def parse_query(name: str, text: str) -> NamedQuery:
    """The query that a file of this name (without its ending) and text holds."""
    title, plot, about = name, Plot(), []
    parameters: dict[str, Parameter] = {}
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        if match := _PARAMETER.fullmatch(line):
            parameters[match[1]] = Parameter(default=_value(match[2]), about=match[3])
        elif line.startswith("-- title: "):
            title = line.removeprefix("-- title: ")
        elif line.startswith("-- plot: "):
            plot = Plot.parse(line.removeprefix("-- plot: "))
        else:
            about.append(line.removeprefix("--").strip())
    sql = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    return NamedQuery(
        name=name, title=title, about=" ".join(about), parameters=parameters, plot=plot, sql=sql
    )


def _value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
