"""`omni-diffusion voices`: who speaks in this corpus?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from omni_diffusion.pipelines.voice_report import VoiceReport


def command(
    corpus: str = typer.Argument(help="Folder or URL of a corpus that synthesize has made."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Show how often each voice speaks, by gender, accent and rate, and who is held out."""
    from omni_diffusion.pipelines.voice_report import voice_report

    report = voice_report(corpus)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
        return
    _print(report)


def _print(report: VoiceReport) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("voice", "gender", "accent", "part", "samples", "share", "refused by gates")
    for voice in report.voices:
        share = f"{voice.samples / report.samples:.1%}" if report.samples else ""
        names = (voice.voice, voice.gender, voice.accent, voice.part)
        table.add_row(*names, str(voice.samples), share, str(voice.refused))
    Console().print(table)
    typer.echo(f"{report.samples} samples; rarest user voice at {report.least_share:.2f} of even")
    for what in ("gender", "accent", "attempts"):
        counts = getattr(report, what)
        if counts:
            typer.echo(f"{what}: " + ", ".join(f"{name} {n}" for name, n in counts.items()))
    if report.rate:
        rates = [int(rate) for rate in report.rate]
        mean = sum(int(rate) * n for rate, n in report.rate.items()) / sum(report.rate.values())
        typer.echo(f"rate: {min(rates)} % to {max(rates)} %, mean {mean:.1f} %")
    if report.held_out:
        typer.echo("held out: " + ", ".join(report.held_out))
