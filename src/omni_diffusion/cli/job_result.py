"""What jobs say at their end, and what a dry run says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from omni_diffusion.cli.job_progress import duration

if TYPE_CHECKING:
    from omni_diffusion.corpus.manifest import Manifest
    from omni_diffusion.pipelines.estimate import Estimate
    from omni_diffusion.pipelines.run_file import Run


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
    else:
        typer.echo("this run: nothing was missing")
    for reason, count in sorted(run.reasons.items(), key=lambda pair: -pair[1])[:5]:
        typer.echo(f"  {count} rejected: {reason}")


def print_estimate(found: Estimate, as_json: bool) -> None:
    """What a job would do."""
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
        return
    about = "an unknown number of" if found.records_about is None else f"{found.records_about}"
    records = f"about {about}" if found.records is None and found.records_about else about
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
