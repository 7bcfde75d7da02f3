"""The routes of the server.

    GET    /                          the page
    GET    /api/about                 tasks, model, bounds
    POST   /api/answers               a request in JSON; 202 with its id
    GET    /api/answers/ID            where it stands
    GET    /api/answers/ID/events     the same as server-sent events, until it is final
    DELETE /api/answers/ID            nobody wants it any more

Errors are JSON, `{"error": "a sentence"}`: 400 for a request that makes no sense, 413 for one that
is too large, 415 for one that is no JSON (which also keeps pages of other sites from posting), 503
when all places are taken.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from omni_diffusion.errors import OmniError
from omni_diffusion.generation.generation_recipe import TASKS
from omni_diffusion.generation.layout import KINDS
from omni_diffusion.generation.serving.desk import Bounds, BusyError, Desk
from omni_diffusion.generation.serving.job import FINAL, Job
from omni_diffusion.generation.serving.media import read_ask
from omni_diffusion.generation.studio import Studio

_FILES: Final = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; media-src data: blob:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_BODY_DEADLINE_S = 60
_SIGN_OF_LIFE_S = 15


def build_app(
    studio: Studio, bounds: Bounds | None = None, hosts: tuple[str, ...] = ("*",)
) -> Starlette:
    """The server's application; its worker runs as long as it does.

    Args:
        studio: answers.
        bounds: what is taken on.
        hosts: names under which the server may be asked for. On loopback only its own: else
            another site's page could reach it under that site's name.
    """
    desk = Desk(studio, bounds or Bounds())

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        desk.start()
        yield
        await asyncio.to_thread(desk.close)

    async def about(_request: Request) -> Response:
        return JSONResponse(_about(studio, desk))

    async def ask(request: Request) -> Response:
        return await _ask(request, desk)

    async def look(request: Request) -> Response:
        job = desk.find(request.path_params["id"])
        return _unknown() if job is None else JSONResponse(job.state()[1])

    async def listen(request: Request) -> Response:
        job = desk.find(request.path_params["id"])
        if job is None:
            return _unknown()
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(job), media_type="text/event-stream", headers=headers)

    async def cancel(request: Request) -> Response:
        job = desk.find(request.path_params["id"])
        if job is None:
            return _unknown()
        job.cancel()
        return JSONResponse({"id": job.id})

    place = "/api/answers/{id}"
    routes = [
        *(Route(path, _file(*entry)) for path, entry in _FILES.items()),
        Route("/api/about", about),
        Route("/api/answers", ask, methods=["POST"]),
        Route(place, look),
        Route(place, cancel, methods=["DELETE"]),
        Route(f"{place}/events", listen),
    ]
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    return Starlette(routes=routes, lifespan=lifespan, middleware=[trusted])


async def _ask(request: Request, desk: Desk) -> Response:
    if not request.headers.get("content-type", "").startswith("application/json"):
        return _error(415, "send the request as application/json")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > desk.bounds.body_bytes:
        return _too_large(desk.bounds)
    try:
        desk.take_place()
    except BusyError as error:
        return _error(503, str(error), {"Retry-After": "2"})
    job = None
    try:
        async with asyncio.timeout(_BODY_DEADLINE_S):
            body = await _body(request, desk.bounds.body_bytes)
        if body is None:
            return _too_large(desk.bounds)
        job = desk.submit(read_ask(json.loads(body)))
    except OmniError as error:
        return _error(400, str(error))
    except (ValueError, RecursionError):
        return _error(400, "the request is not valid JSON")
    except (TimeoutError, ClientDisconnect):
        return _error(408, f"the request did not arrive within {_BODY_DEADLINE_S} s")
    finally:
        if job is None:
            desk.leave_place()
    answer = {"id": job.id, "events": f"/api/answers/{job.id}/events"}
    return JSONResponse(answer, status_code=202)


async def _body(request: Request, limit: int) -> bytes | None:
    """The body, or None where it is longer than the limit, whatever its header says."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            return None
        parts.append(part)
    return b"".join(parts)


async def _events(job: Job) -> AsyncIterator[str]:
    """Every state from the present one on, as server-sent events; slow listeners miss some."""
    seen = -1
    with job.listening() as changed:
        while True:
            changed.clear()
            version, state = job.state()
            if version != seen:
                seen = version
                yield f"data: {json.dumps(state)}\n\n"
            if state["stage"] in FINAL:
                return
            try:
                async with asyncio.timeout(_SIGN_OF_LIFE_S):
                    await changed.wait()
            except TimeoutError:
                yield ": still here\n\n"


def _about(studio: Studio, desk: Desk) -> dict[str, Any]:
    config = studio.model.config
    return {
        "tasks": {name: KINDS[name] for name in TASKS},
        "demo": studio.kit.demo,
        "parameters": sum(p.numel() for p in studio.model.parameters()),
        "longest": config.max_position_embeddings,
        "body_bytes": desk.bounds.body_bytes,
        **desk.counts(),
    }


def _file(name: str, kind: str) -> Any:
    data = (resources.files("omni_diffusion.generation.serving") / name).read_bytes()
    headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}

    async def send(_request: Request) -> Response:
        return Response(data, media_type=kind, headers=headers)

    return send


def _unknown() -> Response:
    return _error(404, "there is no such answer, or it is no longer kept")


def _too_large(bounds: Bounds) -> Response:
    return _error(413, f"the request is larger than the {bounds.body_bytes >> 20} MiB allowed")


def _error(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status_code=status, headers=headers)
