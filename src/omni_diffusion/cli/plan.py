"""`omni-diffusion plan`: what a training recipe will read, before anything is spent."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from omni_diffusion.cli import recipe_options

if TYPE_CHECKING:
    from omni_diffusion.training.report import PlanReport


def command(
    recipe: Path = typer.Argument(help="A training recipe."),
    overrides: list[str] = recipe_options.overrides("data.row_length=2048"),
    steps: int = typer.Option(1000, min=1, help="Steps that the figures are for."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Print mixture, fill of the rows, tokens a step and passes over each source.

    Reads the indexes only; no tar is opened.
    """
    from omni_diffusion.training.opening import load_data
    from omni_diffusion.training.report import report

    data, _ = load_data(recipe, overrides or ())
    found = report(data, steps)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
        return
    _print(found)


def _print(found: PlanReport) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = ("source", "rows", "used", "configured", "planned", "samples", "tokens", "epochs")
    mixture = Table(*columns, title=f"mixture of {found.steps:,} steps", title_justify="left")
    for source in found.sources:
        counts = (f"{source.rows:,}", f"{source.used:,}")
        shares = (f"{source.configured:.2%}", f"{source.planned:.2%}")
        drawn = (f"{source.samples:,}", f"{source.ids:,}", f"{source.epochs:.2f}")
        mixture.add_row(source.name, *counts, *shares, *drawn)
    tasks = Table("task", "samples", "tokens", title="tasks", title_justify="left")
    for task in found.tasks:
        tasks.add_row(task.name, f"{task.samples:.1%}", f"{task.ids:.1%}")
    console = Console()
    console.print(mixture, tasks)
    for source in found.sources:
        left_out = {
            "too long": source.too_long,
            "nothing to predict": source.unsupervised,
            "held out": source.held_out,
        }
        if any(left_out.values()):
            text = ", ".join(f"{name} {count:,}" for name, count in left_out.items() if count)
            typer.echo(f"{source.name}: not trained on: {text}")
    lines = {
        "rows": f"{found.rows_per_step} a step of {found.row_length} positions",
        "fill": f"{found.fill:.2%} ({found.tail_pads:.2%} tail pads), {found.packed_steps} steps",
        "samples": f"{found.samples_per_step:,.1f} a step",
        "tokens": f"{found.ids_per_step:,.0f} a step, {found.supervised_per_step:,.0f} supervised",
        "evaluation": f"{found.evaluation_samples} samples in {found.evaluation_steps} batches",
        "digest": found.digest,
    }
    if found.steps_with_more_rows:
        lines["rows"] += f", {found.steps_with_more_rows} of {found.packed_steps} steps need more"
    for name, value in lines.items():
        typer.echo(f"{name:>10} : {value}")
