"""`omni-diffusion spoken`: who speaks in this corpus, and what was refused?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from omni_diffusion.pipelines.spoken_report import SpokenReport


def command(
    corpus: str = typer.Argument(help="Folder or URL of a corpus that synthesize has made."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Show the balance of voices, what rules changed and dropped, what each gate let through."""
    from omni_diffusion.pipelines.spoken_report import spoken_report

    report = spoken_report(corpus)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
        return
    _print(report)


def _print(report: SpokenReport) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    voices = Table(
        *("voice", "gender", "accent", "part", "records", "share", "refused by gates"),
        box=box.SIMPLE,
    )
    for voice in report.voices:
        share = f"{voice.records / report.records:.1%}" if report.records else ""
        names = (voice.voice, voice.gender, voice.accent, voice.part)
        voices.add_row(*names, str(voice.records), share, str(voice.refused))
    console.print(voices)
    typer.echo(f"rarest user voice at {report.least_share:.2f} of an even share")
    for what in ("gender", "accent", "attempts"):
        _counts(what, getattr(report, what))
    if report.rate:
        rates = [int(rate) for rate in report.rate]
        mean = sum(int(rate) * n for rate, n in report.rate.items()) / sum(report.rate.values())
        typer.echo(f"rate: {min(rates)} % to {max(rates)} %, mean {mean:.1f} %")
    gates = Table("gate", "from", "to", "utterances", "passed", "measured", box=box.SIMPLE)
    for gate in report.gates:
        measured = f"{gate.lowest:.3g} to {gate.highest:.3g}"
        share = f"{gate.passed / gate.looked_at:.1%}"
        gates.add_row(
            gate.gate, f"{gate.low:g}", f"{gate.high:g}", str(gate.looked_at), share, measured
        )
    console.print(gates)
    _counts(f"texts changed by rules, of {report.utterances}", report.rules)
    typer.echo(f"{report.records} records spoken, {sum(report.rejects.values())} rejected")
    for reason, count in report.rejects.items():
        typer.echo(f"  {count} rejected: {reason}")


def _counts(what: str, counts: Mapping[str, int]) -> None:
    if counts:
        typer.echo(f"{what}: " + ", ".join(f"{name} {n}" for name, n in counts.items()))
