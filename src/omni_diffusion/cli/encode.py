"""`omni-diffusion encode`: pictures and sounds to codes."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from omni_diffusion.cli import media_options
from omni_diffusion.cli.progress import progress


def command(
    files: list[Path] = typer.Argument(help="Pictures, or sounds (wav, flac, mp3, ogg)."),
    out: Path = typer.Option(Path(), "-o", "--out", help="Folder for the .npz files."),
    demo: bool = media_options.DEMO,
    image: str = media_options.IMAGE,
    speech: str = media_options.SPEECH,
    resolution: int = typer.Option(256, help="Shorter side of a picture in pixels."),
    crop: bool = typer.Option(True, help="Cut pictures to a square, or keep their shape."),
    device: str = media_options.DEVICE,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object a file."),
) -> None:
    """Turn pictures and sounds into codes, FILE.npz each (see `decode` for the way back)."""
    tokenizers = media_options.tokenizers(demo, image, speech, "demo", device, resolution, crop)
    out.mkdir(parents=True, exist_ok=True)
    with progress("encode", "files") as update:
        for done, file in enumerate(files, 1):
            codes = tokenizers.encode_file(file)
            target = out / f"{file.name}.npz"
            codes.save(target)
            update(done, len(files))
            distinct = len(set(codes.codes.tolist()))
            facts = {
                "file": str(file),
                "codes": str(target),
                "kind": codes.kind,
                "n": len(codes.codes),
                "distinct": distinct,
                "grid": codes.grid if codes.height else None,
                "fingerprint": codes.fingerprint,
                "remarks": list(codes.remarks),
            }
            size = "×".join(map(str, codes.grid)) if codes.height else str(len(codes.codes))
            line = f"{target}: {size} {codes.kind} codes, {distinct} distinct, {codes.fingerprint}"
            typer.echo(json.dumps(facts) if as_json else line)
            for remark in codes.remarks:
                typer.echo(f"note: {file}: {remark}", err=True)
