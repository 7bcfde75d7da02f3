"""What can be asked of a corpus, for people and for programs: `audit --views`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from omni_diffusion.audit.named import named_queries
from omni_diffusion.audit.views import VIEWS


def as_dict() -> dict[str, Any]:
    """Views with their columns, and named queries with parameters, plot and SQL."""
    views = {
        name: {
            "about": view.about,
            "reads_tars": view.reads_tars,
            "columns": {
                column: {"type": kind, "meaning": meaning}
                for column, (kind, meaning) in view.columns.items()
            },
        }
        for name, view in VIEWS.items()
    }
    queries = {
        name: asdict(query) | {"needs_other": query.compares, "needs_run": query.needs_run}
        for name, query in named_queries().items()
    }
    return {"views": views, "queries": queries}


def tables() -> list[Table]:
    """One table a view, and one of the named queries."""
    found = []
    for name, view in VIEWS.items():
        cost = " (reads the tars, once)" if view.reads_tars else ""
        title = f"{name}: a row is {view.about}{cost}"
        table = Table("column", "type", "meaning", title=title, title_justify="left")
        for column, (kind, meaning) in view.columns.items():
            table.add_row(column, kind, Text(meaning))
        found.append(table)
    queries = Table(
        *("--view", "what it answers", "--set"), title="named queries", title_justify="left"
    )
    for name, query in named_queries().items():
        needs = " Needs --against." if query.compares else " Needs --run." * query.needs_run
        settings = "\n".join(f"{n}={p.default}: {p.about}" for n, p in query.parameters.items())
        queries.add_row(name, Text(query.summary + needs), Text(settings))
    return [*found, queries]
