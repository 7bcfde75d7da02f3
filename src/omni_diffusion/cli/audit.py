"""`omni-diffusion audit`: ask a corpus anything, in SQL."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from omni_diffusion.cli.progress import progress

if TYPE_CHECKING:
    import pyarrow as pa

    from omni_diffusion.audit.audit import Audit
    from omni_diffusion.audit.named import Value

_CACHE = Path("~/.cache/omni-diffusion/audit")
_PLANNED_STEPS = 1_000
_TRAINED_STEPS = 10_000
"""Of a run's steps, as many as make a table of a few million rows."""


def command(
    corpus: str = typer.Argument("", help="Folder or URL of a corpus, or of a subset."),
    sql: str = typer.Argument("", help="One SELECT statement; - reads it from standard input."),
    view: str = typer.Option("", "--view", help="Ask a named query instead of SQL."),
    settings: list[str] = typer.Option([], "--set", help="NAME=VALUE of a named query."),
    views: bool = typer.Option(
        False, "--views", help="List the views, their columns and the named queries, and leave."
    ),
    against: str = typer.Option(
        "", "--against", help="A second corpus: its views are other.samples, ... Alone: compare."
    ),
    run: Path | None = typer.Option(
        None, "--run", help="A training recipe, or the folder of a run: fills batches and weights."
    ),
    steps: str = typer.Option(
        "",
        help="Steps of --run that batches holds: N, or FIRST:END. By default those that a run has "
        "done (the last 10,000), and of a recipe the first 1,000.",
    ),
    weights: Path | None = typer.Option(
        None, "--weights", help="YAML file of the mixture as configured: weights: {NAME: NUMBER}."
    ),
    form: Literal["table", "csv", "json", "parquet"] | None = typer.Option(
        None, "--format", help="Of the answer; else as the name of --out ends, else a table."
    ),
    out: str = typer.Option("", "-o", "--out", help="Write the answer to this file or URL."),
    limit: int = typer.Option(50, min=0, help="Rows of a printed table; 0 prints all."),
    explain: bool = typer.Option(False, "--explain", help="Show the plan with times instead."),
    print_sql: bool = typer.Option(False, "--sql", help="Print the SQL of --view and leave."),
    sample: int = typer.Option(
        0, min=0, help="Read about so many samples from the tars, not all (messages, media, codes)."
    ),
    cache: Path = typer.Option(_CACHE, help="Where what was read from tars is kept."),
    memory: str = typer.Option("2GB", help="Limit of intermediate results; more goes to disk."),
) -> None:
    """Ask a corpus anything, in SQL. The corpus is only read.

    omni-diffusion audit CORPUS "SELECT task, count(*) FROM samples GROUP BY task"

    omni-diffusion audit CORPUS --view lengths --set by=language
    """
    if views:
        _print_views(form)
        return
    from omni_diffusion.audit import answer
    from omni_diffusion.audit.audit import Audit
    from omni_diffusion.audit.guard import QueryError
    from omni_diffusion.audit.named import named_query
    from omni_diffusion.audit.weights import load_weights

    if print_sql and view:
        typer.echo(named_query(view).sql)
        return
    alone = bool(against) and not sql and not view
    if not corpus or bool(sql) + bool(view) + alone != 1:
        reason = "say a corpus, and either SQL, --view NAME or --against OTHER"
        raise QueryError(f"{reason} (--views lists what there is)")
    chosen = answer.choose_format(form, out)
    if alone:
        _compare(corpus, against, chosen, out, sample=sample, cache=cache, memory=memory)
        return
    statement, values = _question(view, settings) if view else (_read(sql, settings), {})
    with ExitStack() as stack:
        configured = load_weights(weights) if weights else {}
        batches = None
        if run:
            trained, plan_steps = _training(run, steps)
            configured = configured or trained
            # Made now, so that its progress bar is not inside the other one.
            batches = plan_steps() if "batches" in statement.lower() else None
        update = stack.enter_context(progress("audit", "shards"))
        audit = Audit(
            corpus,
            against=against or None,
            weights=configured,
            batches=batches,
            cache=cache,
            sample=sample or None,
            memory_limit=memory,
            on_shard=update,
        )
        with audit:
            _check_view(view, audit, has_run=run is not None)
            plan = audit.explain(statement, values) if explain else ""
            rows = None if explain else audit.query(statement, values)
            stack.close()  # the bar would take what is printed for its own
            if rows is None:
                typer.echo(plan)
            elif out:
                typer.echo(f"{out}: {answer.save(rows, chosen, out)} rows", err=True)
            else:
                answer.write_text(rows, chosen, sys.stdout, limit)
            for note in audit.notes:
                typer.echo(f"note: {answer.printable(note)}", err=True)


def _compare(
    corpus: str, against: str, form: str, out: str, *, sample: int, cache: Path, memory: str
) -> None:
    """What was added, removed and changed, and what drifted, from `against` to `corpus`."""
    from omni_diffusion.audit import answer, compare_text
    from omni_diffusion.audit.audit import Audit
    from omni_diffusion.audit.compare import compare

    counted = sample or compare_text.CODES_OF_SAMPLES
    with (
        progress("compare", "parts") as update,
        Audit(corpus, against=against, cache=cache, sample=counted, memory_limit=memory) as audit,
    ):
        found = compare(audit, update)
    compare_text.write(found, form, out)
    for note in audit.notes:
        typer.echo(f"note: {answer.printable(note)}", err=True)


def _read(sql: str, settings: list[str]) -> str:
    from omni_diffusion.audit.guard import QueryError

    if settings:
        raise QueryError("--set is for named queries: write the value into the SQL")
    return sys.stdin.read() if sql == "-" else sql


def _question(view: str, settings: list[str]) -> tuple[str, dict[str, Value]]:
    """The statement of a named query, and the values of its parameters."""
    from omni_diffusion.audit.guard import QueryError
    from omni_diffusion.audit.named import named_query

    pairs = [setting.partition("=") for setting in settings]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise QueryError(f"--set {wrong[0]}: expected NAME=VALUE")
    query = named_query(view)
    return query.sql, query.values({name: value for name, _, value in pairs})


def _check_view(view: str, audit: Audit, *, has_run: bool) -> None:
    """Refuse a named query that lacks its second corpus or its run."""
    from omni_diffusion.audit.guard import QueryError
    from omni_diffusion.audit.named import named_query

    if not view:
        return
    if named_query(view).compares and not audit.compares:
        raise QueryError(f"{view} needs a second corpus: --against OTHER")
    if named_query(view).needs_run and not has_run:
        raise QueryError(f"{view} needs a training run: --run RECIPE or RUN")


def _training(path: Path, steps: str) -> tuple[dict[str, float], Callable[[], pa.Table]]:
    """Configured weights of a run, and what plans its steps."""
    from omni_diffusion.recipe import load_recipe
    from omni_diffusion.training.opening import open_data
    from omni_diffusion.training.planned import planned_table
    from omni_diffusion.training.recipe import PlanRecipe

    recipe = load_recipe(path / "recipe.yaml" if path.is_dir() else path, PlanRecipe)
    first, end = _steps(path, steps)

    def plan_steps() -> pa.Table:
        with progress("plan", "steps") as update:
            return planned_table(open_data(recipe.data), first, end, update)

    return {name: source.weight for name, source in recipe.data.sources.items()}, plan_steps


def _steps(path: Path, text: str) -> tuple[int, int]:
    """First step, and the one to end before."""
    from omni_diffusion.audit.guard import QueryError
    from omni_diffusion.training.metrics_file import NAME, read_metrics

    if text:
        first, _, end = text.rpartition(":")
        numbers = (first or "0", end)
        if not all(n.isascii() and n.isdigit() for n in numbers) or int(end) <= int(numbers[0]):
            raise QueryError(f"--steps {text}: expected N, or FIRST:END with FIRST below END")
        return int(numbers[0]), int(end)
    if not (path / NAME).is_file():
        return 0, _PLANNED_STEPS
    done = max((record["step"] for record in read_metrics(path)), default=0)
    return max(0, done - _TRAINED_STEPS), done


def _print_views(form: str | None) -> None:
    """What can be asked: for people, or as JSON."""
    from omni_diffusion.audit.catalogue import as_dict, tables

    if form == "json":
        typer.echo(json.dumps(as_dict(), indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    Console().print(*tables(), sep="\n")
