"""`omni-diffusion audit`: ask a corpus anything, in SQL."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from omni_diffusion.cli.progress import progress

if TYPE_CHECKING:
    from omni_diffusion.audit.audit import Audit
    from omni_diffusion.audit.named import Value


def command(
    corpus: str = typer.Argument("", help="Folder or URL of a corpus, or of a subset."),
    sql: str = typer.Argument("", help="One SELECT statement."),
    view: str = typer.Option("", "--view", help="Ask a named query instead of SQL."),
    settings: list[str] = typer.Option([], "--set", help="NAME=VALUE of a named query."),
    views: bool = typer.Option(False, "--views", help="List the named queries and leave."),
    columns: bool = typer.Option(False, "--columns", help="List views and columns and leave."),
    against: str = typer.Option(
        "", "--against", help="A second corpus: its views are other.samples, ... Alone: compare."
    ),
    weights: Path | None = typer.Option(
        None, "--weights", help="YAML file of the mixture as configured: weights: {NAME: NUMBER}."
    ),
    form: str = typer.Option("", "--format", help="table, csv, json or parquet."),
    out: str = typer.Option("", "-o", "--out", help="Write the answer to this file or URL."),
    limit: int = typer.Option(50, min=0, help="Rows of a printed table; 0 prints all."),
    explain: bool = typer.Option(False, "--explain", help="Show the plan with times instead."),
    sample: int = typer.Option(
        0, min=0, help="Read about so many samples from the tars, not all (messages, media, codes)."
    ),
    cache: Path = typer.Option(
        Path("~/.cache/omni-diffusion/audit"), help="Where what was read from tars is kept."
    ),
    memory: str = typer.Option("2GB", help="Limit of intermediate results; more goes to disk."),
) -> None:
    """Ask a corpus anything, in SQL. The corpus is only read.

    omni-diffusion audit CORPUS "SELECT task, count(*) FROM samples GROUP BY task"

    omni-diffusion audit CORPUS --view lengths --set by=language
    """
    if views or columns:
        typer.echo(_catalogue(columns))
        return
    from omni_diffusion.audit import answer
    from omni_diffusion.audit.audit import Audit
    from omni_diffusion.audit.database import QueryError
    from omni_diffusion.audit.weights import load_weights

    if not corpus or bool(sql) + bool(view) + (bool(against) and not sql and not view) != 1:
        raise QueryError("say a corpus and either SQL, --view NAME or --against OTHER")
    if form and form not in answer.FORMATS:
        raise QueryError(f"--format {form}: expected one of {', '.join(answer.FORMATS)}")
    chosen = next((f for f in answer.FORMATS if f == form), None)
    chosen = chosen or (answer.format_of(out) if out else "table")
    with ExitStack() as stack:
        with progress("audit", "shards") as update:
            audit = Audit(
                corpus,
                against=against or None,
                weights=load_weights(weights) if weights else None,
                cache=cache,
                sample=sample or None,
                memory_limit=memory,
                on_shard=update,
            )
            stack.enter_context(audit)
            statement, values = _question(audit, sql, view, settings)
            if explain:
                plan = audit.explain(statement, values)
            else:
                rows = audit.query(statement, values)
        # The bar is gone here: it would take what is printed for its own.
        if explain:
            typer.echo(plan)
        elif out:
            answer.save(rows, chosen, out)
        else:
            answer.write_text(rows, chosen, sys.stdout, limit)
        for note in audit.notes:
            typer.echo(f"note: {answer.printable(note)}", err=True)


def _question(
    audit: Audit, sql: str, view: str, settings: list[str]
) -> tuple[str, dict[str, Value]]:
    """The statement to run, and the values of its parameters."""
    from omni_diffusion.audit.database import QueryError
    from omni_diffusion.audit.named import named_query

    if not view:
        if settings:
            raise QueryError("--set is for named queries: write the value into the SQL")
        return sql, {}
    query = named_query(view)
    if query.compares and not audit.compares:
        raise QueryError(f"{view} needs a second corpus: --against OTHER")
    pairs = [setting.partition("=") for setting in settings]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise QueryError(f"--set {wrong[0]}: expected NAME=VALUE")
    return query.sql, query.values({name: value for name, _, value in pairs})


def _catalogue(columns: bool) -> str:
    """What can be asked."""
    lines = []
    if columns:
        from omni_diffusion.audit.views import VIEWS

        for name, found in VIEWS.items():
            cost = " (reads the tars once)" if found.reads_tars else ""
            lines.append(f"{name}: a row is {found.about}{cost}")
            for column, (kind, meaning) in found.columns.items():
                lines.append(f"    {column:18} {kind:10} {meaning}".rstrip())
        return "\n".join(lines)
    from omni_diffusion.audit.named import named_queries

    for name, query in named_queries().items():
        lines.append(f"{name:18} {query.summary}")
        for parameter, told in query.parameters.items():
            lines.append(f"{'':18}   --set {parameter}={told.default}: {told.about}")
    return "\n".join(lines)
