"""`omni-diffusion verify`: is this corpus whole?"""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from omni_diffusion.cli.progress import progress


def command(
    corpus: str = typer.Argument(help="Folder or URL of a corpus, or of a subset."),
    rebuild_index: bool = typer.Option(
        False,
        "--rebuild-index",
        help="First make missing sidecars, index.parquet and corpus.json again from the tars.",
    ),
    workers: int = typer.Option(0, min=0, help="Processes; 0 takes one a core."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Check every byte of a corpus; list what is wrong and exit with 1 if anything is.

    Walks all shards: digests, CRCs, tar headers, sidecars against tars, index against sidecars,
    fingerprints, overlapping members, keys that stand twice, counts.
    """
    from omni_diffusion.corpus import verify

    if rebuild_index:
        with progress("rebuild", "shards") as update:
            verify.rebuild_index(corpus, on_shard=update)
    with progress("verify", "shards") as update:
        report = verify.verify(corpus, workers=workers or None, on_shard=update)
    if as_json:
        typer.echo(json.dumps(asdict(report) | {"ok": not report.problems}, indent=2))
    else:
        _print(report)
    if report.problems:
        raise typer.Exit(1)


def _print(report: object) -> None:
    from omni_diffusion.corpus.checking import Report

    assert isinstance(report, Report)
    for note in report.notes:
        typer.echo(f"note: {note.path}: {note.reason}")
    for problem in report.problems:
        typer.echo(f"problem: {problem.path}: {problem.reason}")
    counts = f"{report.shards} shards, {report.rows} samples, {report.rejects} rejects"
    verdict = f"{len(report.problems)} problems" if report.problems else "all well"
    typer.echo(f"{report.root}: {counts}: {verdict}")
