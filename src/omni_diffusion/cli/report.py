"""`omni-diffusion report`: a corpus as one page to read, look at and listen to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import typer

from omni_diffusion.cli import media_options
from omni_diffusion.cli.progress import progress

if TYPE_CHECKING:
    from omni_diffusion.audit.report.report import Report
    from omni_diffusion.tokenize.media import MediaTokenizers

_CACHE = Path("~/.cache/omni-diffusion/audit")


def command(
    corpus: str = typer.Argument(help="Folder or URL of a corpus, or of a subset."),
    out: str = typer.Option("report.html", "-o", "--out", help="File or URL to write."),
    samples: int = typer.Option(60, min=0, help="Samples to show."),
    seed: int = typer.Option(0, help="Another one shows other samples."),
    title: str = typer.Option("", help="Heading of the page; the corpus's name by default."),
    max_mb: float = typer.Option(
        15.0, min=2.0, help="Size of the file at most: longer sounds are cut to fit."
    ),
    weights: Path | None = typer.Option(
        None, "--weights", help="YAML file of the mixture as configured: weights: {NAME: NUMBER}."
    ),
    against: str = typer.Option(
        "", "--against", help="A second corpus, such as one to evaluate with: adds the leakage."
    ),
    sample: int = typer.Option(
        20_000,
        min=0,
        help="Count codes in about so many samples of a larger corpus; 0 reads all.",
    ),
    image: str = media_options.IMAGE,
    speech: str = media_options.SPEECH,
    decoder: str = media_options.DECODER,
    device: str = media_options.DEVICE,
    cache: Path = typer.Option(_CACHE, help="Where what was read from tars is kept."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Write a page about a corpus: figures, curves, samples to see and hear, rejects, licences.

    The file stands alone: no script, no network, light and dark, for screens and phones. A corpus
    that was made with the demo tokenizers is decoded with them; for any other, name the ones that
    made it: where they are not at hand, the page says so and shows the rest.
    """
    from omni_diffusion.audit.audit import Audit
    from omni_diffusion.audit.report.report import ReportSettings, make_report
    from omni_diffusion.audit.weights import load_weights
    from omni_diffusion.corpus.storage import Storage

    folder, _, name = out.rpartition("/")
    target = Storage(folder or ("/" if out.startswith("/") else "."))

    def tokenizers(fingerprints: Mapping[str, str]) -> MediaTokenizers:
        return media_options.of_corpus(fingerprints, image, speech, decoder, device)

    settings = ReportSettings(
        title=title or PurePosixPath(corpus.rstrip("/")).name or corpus,
        samples=samples,
        seed=seed,
        max_bytes=int(max_mb * 1e6),
    )
    with ExitStack() as stack:
        configured = load_weights(weights) if weights else {}
        audit = Audit(
            corpus,
            against=against or None,
            weights=configured,
            cache=cache,
            sample=sample or None,
        )
        stack.enter_context(audit)
        with progress("report", "steps") as update:
            report = make_report(audit, settings, tokenizers, update)
    page = report.html.encode()
    target.publish_bytes(page, name, replace=True)
    if as_json:
        typer.echo(json.dumps(_described(report, out, len(page)), indent=2, ensure_ascii=False))
        return
    _print(report, out, len(page))


def _described(report: Report, out: str, n_bytes: int) -> dict[str, object]:
    described: dict[str, object] = {"report": out, "bytes": n_bytes, "samples": report.samples}
    described |= {"pictures": report.pictures, "sounds": report.sounds, "unread": report.unread}
    return described | {"problems": report.problems, "faults": report.faults}


def _print(report: Report, out: str, n_bytes: int) -> None:
    from omni_diffusion.audit.answer import printable

    for problem in (*report.problems, *report.faults):
        typer.echo(f"note: {printable(problem)}", err=True)
    if report.unread:
        typer.echo(f"note: {report.unread} samples could not be read", err=True)
    shown = f"{report.samples} samples, {report.pictures} pictures, {report.sounds} sounds"
    typer.echo(f"{out}: {shown}, {n_bytes / 1e6:.1f} MB")
