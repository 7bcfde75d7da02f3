"""`omni-diffusion select`: a part of a corpus, as a corpus, without copying it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import typer

from omni_diffusion.cli.progress import progress


def command(
    corpus: str = typer.Argument(help="Folder or URL of a finished corpus, or of a subset."),
    sql: str = typer.Argument(
        help="A SELECT that returns the keys of samples; - reads it from standard input."
    ),
    out: str = typer.Option(..., "-o", "--out", help="Folder or URL of the new corpus."),
    against: str = typer.Option(
        "", "--against", help="A second corpus that the query may read: other.samples, ..."
    ),
    cache: Path = typer.Option(
        Path("~/.cache/omni-diffusion/audit"), help="Where what was read from tars is kept."
    ),
    memory: str = typer.Option("2GB", help="Limit of intermediate results; more goes to disk."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Choose samples by SQL; the new corpus refers to the same shards.

    It can be verified, shown, streamed, trained on and audited as any other, while the shards stay
    where they are.

    omni-diffusion select CORPUS "SELECT key FROM samples WHERE wer <= 0.05" -o CLEAN
    """
    from omni_diffusion.audit.answer import printable
    from omni_diffusion.audit.audit import Audit
    from omni_diffusion.audit.select import select

    statement = sys.stdin.read() if sql == "-" else sql
    with (
        progress("select", "shards") as update,
        Audit(
            corpus, against=against or None, cache=cache, memory_limit=memory, on_shard=update
        ) as audit,
    ):
        manifest, twice = select(audit, statement, out, source=corpus)
        total = audit.corpus.manifest.rows if audit.corpus.manifest else 0
        notes = [*audit.notes, *([f"{twice} keys were returned more than once"] if twice else [])]
    for note in notes:
        typer.echo(f"note: {printable(note)}", err=True)
    if as_json:
        typer.echo(json.dumps(asdict(manifest) | {"corpus": out, "of_rows": total}, indent=2))
        return
    part = f"{manifest.rows / total:.1%}" if total else "0%"
    typer.echo(f"{out}: {manifest.rows} of {total} samples ({part}), {manifest.shards} shards")
    typer.echo(f"refers to the shards in {manifest.base}")
