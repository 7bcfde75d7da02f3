"""Questions that ship: the files of `queries/`, one SELECT each.

A file begins with comment lines. Those of the form `-- $name = default: meaning` declare a
parameter; the others say what the query answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from omni_diffusion.audit.database import QueryError

_PARAMETER = re.compile(r"-- \$(\w+) = (\S+): (.+)")

Value = int | float | str


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
class NamedQuery:
    """A question with a name.

    Attributes:
        about: what it answers: the first line is a summary.
        parameters: what it can be told.
        sql: the statement.
    """

    name: str
    about: str
    parameters: Mapping[str, Parameter]
    sql: str

    @property
    def summary(self) -> str:
        """The first sentence."""
        return self.about.partition(".")[0] + "."

    @property
    def compares(self) -> bool:
        """Whether it needs a second corpus."""
        return "other." in self.sql

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
    return {q.name: q for q in (_parse(f.name[:-4], f.read_text("utf-8")) for f in found)}


def named_query(name: str) -> NamedQuery:
    """The query of that name.

    Raises:
        QueryError: there is none; the known names are listed.
    """
    queries = named_queries()
    if name not in queries:
        raise QueryError(f"no named query {name!r}; there are: {', '.join(queries)}")
    return queries[name]


def _parse(name: str, text: str) -> NamedQuery:
    head: Sequence[str] = [line for line in text.splitlines() if line.startswith("--")]
    parameters, about = {}, []
    for line in head:
        if match := _PARAMETER.fullmatch(line):
            parameters[match[1]] = Parameter(default=_value(match[2]), about=match[3])
        else:
            about.append(line.removeprefix("--").strip())
    sql = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    return NamedQuery(name=name, about=" ".join(about), parameters=parameters, sql=sql)


def _value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
