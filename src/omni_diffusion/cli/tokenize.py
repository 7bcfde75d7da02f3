"""`omni-diffusion tokenize`: pictures, sounds and texts of a source become a token corpus."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from omni_diffusion.cli.job_progress import duration, job_progress
from omni_diffusion.cli.progress import progress

if TYPE_CHECKING:
    from omni_diffusion.corpus.manifest import Manifest
    from omni_diffusion.pipelines.run_file import Run
    from omni_diffusion.pipelines.tokenize import Estimate


def command(
    recipe: str = typer.Argument(help="A recipe, e.g. tokenize/demo.yaml."),
    overrides: list[str] = typer.Argument(
        None, metavar="[KEY=VALUE]...", help="Set recipe keys, e.g. run.ray.address=auto."
    ),
    local: bool = typer.Option(False, "--local", help="Work in this process, without Ray."),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Plan, try a few records, estimate time and size; write nothing."
    ),
    retry_rejects: bool = typer.Option(
        False, "--retry-rejects", help="Also try the rejected records of finished shards again."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Tokenize a source into a corpus of shards.

    Run the same command again after a crash, or after Ctrl-C: it does what is missing, and the
    corpus is the same, byte for byte, as if nothing had happened.
    """
    from omni_diffusion.pipelines.engine import run_job
    from omni_diffusion.pipelines.tokenize import claim_output, estimate, job_of
    from omni_diffusion.pipelines.tokenize_recipe import TokenizeRecipe
    from omni_diffusion.recipe import load_recipe

    loaded = load_recipe(recipe, TokenizeRecipe, overrides or ())
    if dry_run:
        _print_estimate(estimate(loaded), as_json)
        return
    digest = claim_output(loaded)
    with job_progress("tokenize") as on_tick, progress("index", "shards") as on_index:
        manifest, run = run_job(
            job_of(loaded),
            loaded.run,
            digest,
            local=local,
            retrying_rejects=retry_rejects,
            on_tick=on_tick,
            on_index=on_index,
        )
    print_result(loaded.output, manifest, run, as_json)


def print_result(output: str, manifest: Manifest, run: Run, as_json: bool) -> None:
    """What a finished job says."""
    from dataclasses import asdict

    if as_json:
        typer.echo(json.dumps({"run": asdict(run), "corpus": asdict(manifest)}, indent=2))
        return
    total = manifest.rows + manifest.rejects
    typer.echo(
        f"{output}: {total} records in = {manifest.rows} samples + {manifest.rejects} rejects, "
        f"in {manifest.shards} shards"
    )
    if run.partitions["done_now"]:
        typer.echo(
            f"this run: {run.partitions['done_now']} shards, {run.rows} samples, {run.rejects} "
            f"rejects in {duration(run.wall_s)}, workers busy {run.busy_share:.0%}"
        )
    for reason, count in sorted(run.reasons.items(), key=lambda pair: -pair[1])[:5]:
        typer.echo(f"  {count} rejected: {reason}")


def _print_estimate(found: Estimate, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
        return
    records = "an unknown number of" if found.records is None else f"{found.records}"
    typer.echo(f"{found.partitions} partitions ({found.done} done), {records} records")
    for name in found.first:
        typer.echo(f"  {name}")
    if found.partitions > len(found.first):
        typer.echo("  ...")
    if found.source_bytes is not None:
        typer.echo(f"source: {_size(found.source_bytes)}")
    if found.seconds_per_record:
        rate = f"{1 / found.seconds_per_record:.3g} records/s with one worker here"
        typer.echo(f"tried {found.probed} records, {found.probe_rejects} rejected: {rate}")
    if found.worker_hours is not None:
        typer.echo(f"left: {duration(found.worker_hours * 3600)} of one such worker")
    if found.output_bytes is not None:
        typer.echo(f"corpus: about {_size(found.output_bytes)}")


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError(count)
