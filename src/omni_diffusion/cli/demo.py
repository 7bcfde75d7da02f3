"""`omni-diffusion demo`: the main verbs, and a page that shows what came of them."""

from __future__ import annotations

from pathlib import Path

import typer


def command(
    out: Path = typer.Option(Path("demo"), "-o", "--out", help="Folder of the demo."),
) -> None:
    """From pictures and questions to a model that answers: data, speech, tokens, report, training.

    Under twenty minutes on two cores; needs the extra demo. The same command goes on where it was
    broken off.
    """
    from omni_diffusion.demo.demo import run_demo

    page = run_demo(out, typer.echo)
    typer.echo(f"\n{page}: open it in a browser")
