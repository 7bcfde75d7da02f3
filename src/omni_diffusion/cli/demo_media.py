"""`omni-diffusion demo-media`: pictures and speech to try everything on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer


def command(
    folder: Path = typer.Argument(help="Where to, e.g. data/demo-media."),
    drawings: int = typer.Option(120, min=0, help="Drawings, to be drawn and described."),
    questions: int = typer.Option(60, min=0, help="Pictures with questions."),
    questions_each: int = typer.Option(
        1, min=1, help="Questions of each of them, if it has so many."
    ),
    split: Literal["train", "test"] = typer.Option(
        "train", help="Which pictures to ask about: test has others than train."
    ),
    clips: int = typer.Option(120, min=0, help="Spoken sentences."),
) -> None:
    """Make a small media corpus out of installed packages; what is there already stays.

    It needs the extra demo-tokenizers, but no network. tokenize/demo.yaml reads it.
    """
    from omni_diffusion.cli.progress import progress
    from omni_diffusion.pipelines.demo_media import prepare_demo_media

    with progress("demo-media", "pictures and clips") as update:
        counts = (drawings, questions, clips)
        prepare_demo_media(folder, *counts, each=questions_each, split=split, on_progress=update)
    asked = f"{questions} pictures with questions"
    typer.echo(f"{folder}: {drawings} drawings, {asked} and {clips} clips")
