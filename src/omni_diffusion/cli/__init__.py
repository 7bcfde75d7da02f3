"""The command line: one file a verb. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import sys

import typer

from omni_diffusion import __version__
from omni_diffusion.cli import (
    audit,
    batch,
    curves,
    decode,
    demo,
    demo_media,
    encode,
    estimate,
    evaluate,
    generate,
    plan,
    report,
    run,
    select,
    serve,
    show,
    spoken,
    status,
    synthesize,
    tokenize,
    train,
    verify,
)
from omni_diffusion.errors import OmniError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Any-to-any masked diffusion: build, check and look at token corpora.",
)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    if version:
        typer.echo(f"omni-diffusion {__version__}")
        raise typer.Exit


_VERBS = (
    *(tokenize, synthesize, run, status, demo_media),
    *(verify, show, spoken, audit, report, select, encode, decode),
    *(plan, batch, estimate, train, curves),
    *(generate, serve, evaluate, demo),
)
for _verb in _VERBS:
    app.command(_verb.__name__.rpartition(".")[2].replace("_", "-"))(_verb.command)


def main() -> None:
    """Entry point: errors that a user can cause are one sentence on stderr and exit code 1."""
    try:
        app()
    except OmniError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
