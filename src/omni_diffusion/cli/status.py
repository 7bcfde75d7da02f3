"""`omni-diffusion status`: how is the job that writes this corpus?"""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from omni_diffusion.cli.job_progress import duration, now


def command(
    output: str = typer.Argument(help="Folder or URL that a job writes to."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Show the newest run of a job: done, failed, rejected, rate, stragglers, time left."""
    from omni_diffusion.corpus.storage import Storage
    from omni_diffusion.errors import JobError
    from omni_diffusion.pipelines.run_file import ENDED, is_at_work, last_run, seconds_since

    run = last_run(Storage(output))
    if run is None:
        raise JobError(f"{output}: no job has run there (there is no runs/*.json)")
    silent = seconds_since(run.updated)
    dead = run.state not in ENDED and not is_at_work(run)
    if as_json:
        typer.echo(json.dumps(asdict(run) | {"silent_s": round(silent, 1), "dead": dead}, indent=2))
        return
    state = f"{run.state}, but not heard of for {duration(silent)}: it died" if dead else run.state
    typer.echo(f"{run.job} run {run.run} on {run.host}: {state}")
    parts = run.partitions
    typer.echo(f"{parts['done']} of {parts['total']} partitions done, {now(run)}")
    for reason, count in sorted(run.reasons.items(), key=lambda pair: -pair[1])[:5]:
        typer.echo(f"  {count} rejected: {reason}")
    for kind, count in run.failures.items():
        typer.echo(f"  {count} tries ended by {kind}")
    for slow in run.stragglers:
        typer.echo(f"  slow: partition {slow['partition']}, {slow['seconds']:.0f} s so far")
    for lost in run.given_up:
        typer.echo(f"  given up: partition {lost['partition']} ({lost['name']}): {lost['error']}")
    if run.message:
        typer.echo(run.message)
