"""`omni-diffusion curves`: a training run as one page."""

from __future__ import annotations

from pathlib import Path

import typer


def command(
    run: Path = typer.Argument(help="Folder of a training run."),
    out: Path = typer.Option(Path("curves.html"), "-o", "--out", help="The page to write."),
) -> None:
    """Draw a run: loss by task, modality and mask ratio, throughput, and what it generated.

    The page holds everything and needs no network. A run can be drawn while it trains.
    """
    from omni_diffusion.training.curves_page import write_page

    path = write_page(run, out)
    typer.echo(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
