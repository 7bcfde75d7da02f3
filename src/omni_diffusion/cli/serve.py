"""`omni-diffusion serve`: a page to ask on, and to watch answers come about."""

from __future__ import annotations

import socket

import typer

from omni_diffusion.cli.generation_options import StudioOptions, with_studio

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@with_studio
def command(
    said: StudioOptions,
    host: str = typer.Option("127.0.0.1", help="Address to listen on; loopback by default."),
    port: int = typer.Option(8765, min=0, max=65_535, help="0 takes any free one."),
    waiting: int = typer.Option(16, min=1, help="Requests that may wait; others are refused."),
    batch: int = typer.Option(4, min=1, help="Answers that are denoised together."),
    body_mb: int = typer.Option(16, min=1, help="Largest request in MiB."),
) -> None:
    """Serve a small page: type or upload, and watch the picture appear step by step.

    There is no login: whoever reaches the address may ask. Ctrl-C stops it.
    """
    from omni_diffusion.errors import OmniError

    try:
        import uvicorn

        from omni_diffusion.generation.serving.app import build_app
        from omni_diffusion.generation.serving.desk import Bounds
    except ImportError as error:
        raise OmniError(f"serve: {error}; pip install 'omni-diffusion[serve]'") from None
    try:
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise OmniError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    studio = said.open()
    bounds = Bounds(waiting=waiting, together=batch, body_bytes=body_mb << 20)
    local = host in _LOOPBACK
    app = build_app(studio, bounds, (*_LOOPBACK[:2], "[::1]", host) if local else ("*",))
    shown = f"[{host}]" if ":" in host else host
    typer.echo(f"http://{shown}:{listener.getsockname()[1]}/")
    if not local:
        typer.echo("warning: whoever reaches this address may ask; there is no login", err=True)
    # Event streams stay open: they must not keep a stopped server up.
    settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
    uvicorn.Server(settings).run(sockets=[listener])
