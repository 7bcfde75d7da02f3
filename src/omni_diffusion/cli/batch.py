"""`omni-diffusion batch`: the exact rows of a training step."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from omni_diffusion.cli import recipe_options


def command(
    recipe: Path = typer.Argument(help="A training recipe."),
    overrides: list[str] = recipe_options.overrides("data.row_length=2048"),
    step: int = typer.Option(help="Which step, from 0; -1, -2 ... are evaluation batches."),
    rank: int = typer.Option(0, min=0, help="Only this rank's rows."),
    world_size: int = typer.Option(1, "--world-size", min=1, help="Number of ranks."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Print every sample of a step: where it lies, where it comes from, what is masked of it.

    The same for any number of ranks; their rows are parts of the same step.
    """
    from omni_diffusion.errors import OmniError
    from omni_diffusion.training.batch import describe
    from omni_diffusion.training.loader import Loader
    from omni_diffusion.training.opening import load_data

    if rank >= world_size:
        raise OmniError(f"there is no rank {rank} of {world_size}")
    data, masking = load_data(recipe, overrides or ())
    if step < -len(data.evaluation):
        raise OmniError(f"there are {len(data.evaluation)} evaluation batches, not {-step}")
    with Loader(data, masking, rank=rank, world_size=world_size) as loader:
        batch = loader.batch(step)
    rows = describe(batch, [source.name for source in data.sources])
    if as_json:
        value = {"step": step, "rows": len(batch.ids), "row_length": batch.ids.shape[1]}
        value |= {"digest": data.plan.digest, "fill": batch.fill, "samples": rows}
        typer.echo(json.dumps(value, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    columns = ("row", "length", "source", "key", "task", "epoch", "supervised", "masked", "ratio")
    title = f"step {step}: {len(batch.ids)} rows of {batch.ids.shape[1]}, fill {batch.fill:.2%}"
    table = Table(*columns, title=title, title_justify="left")
    for entry in rows:
        table.add_row(*(str(entry[name]) for name in columns))
    Console().print(table)
    for fault in batch.faults:
        typer.echo(f"left out: {fault.source}, row {fault.row}: {fault.reason}", err=True)
