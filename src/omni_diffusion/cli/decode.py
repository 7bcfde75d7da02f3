"""`omni-diffusion decode`: codes to pictures and sounds."""

from __future__ import annotations

from pathlib import Path

import typer

from omni_diffusion.cli import media_options
from omni_diffusion.cli.progress import progress


def command(
    files: list[Path] = typer.Argument(help="Files that `encode` wrote."),
    out: Path = typer.Option(Path(), "-o", "--out", help="Folder for pictures and sounds."),
    demo: bool = media_options.DEMO,
    image: str = media_options.IMAGE,
    speech: str = media_options.SPEECH,
    decoder: str = media_options.DECODER,
    device: str = media_options.DEVICE,
) -> None:
    """Turn codes into pictures (.png) and sounds (.wav); codes of other tokenizers are refused."""
    from omni_diffusion.tokenize.codes import load_codes

    tokenizers = media_options.tokenizers(demo, image, speech, decoder, device)
    out.mkdir(parents=True, exist_ok=True)
    with progress("decode", "files") as update:
        for done, file in enumerate(files, 1):
            typer.echo(tokenizers.decode_to_file(load_codes(file), out / file.stem))
            update(done, len(files))
