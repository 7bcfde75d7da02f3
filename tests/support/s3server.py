"""A real S3-protocol server on loopback that notes what it is asked and can be made to fail."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server


@dataclass(frozen=True)
class Request:
    """One request: its verb, its path with query, and the byte range that it asks for."""

    method: str
    target: str
    range: str | None


class _QuietHandler(MotoRequestHandler):
    def log_request(self, *_: Any) -> None:
        pass


class S3Server:
    """moto behind a gate.

    Attributes:
        url: the endpoint.
        requests: everything that was asked, in order.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._rules: list[Callable[[Request], int | None]] = []
        self._code = ""
        self._backend = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, True, request_handler=_QuietHandler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """Variables that make any S3 client talk to this server, and to no other."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_MAX_ATTEMPTS": "1",
            "NO_PROXY": "127.0.0.1",
        }

    @contextmanager
    def failing(
        self, method: str, pattern: str, status: int, code: str, times: int | None = None
    ) -> Iterator[list[Request]]:
        """Refuse requests whose target matches, at most `times`; yields those that were refused."""
        refused: list[Request] = []

        def rule(request: Request) -> int | None:
            if not _matches(request, method, pattern) or len(refused) == times:
                return None
            refused.append(request)
            return status

        self._code = code
        with self._rule(rule):
            yield refused

    @contextmanager
    def holding(self, method: str, pattern: str) -> Iterator[Event]:
        """Keep matching requests waiting to the end of the block; yields an event: one has come."""
        come, go = Event(), Event()

        def rule(request: Request) -> int | None:
            if not _matches(request, method, pattern):
                return None
            come.set()
            go.wait(60)
            return 503

        self._code = "ServiceUnavailable"
        with self._rule(rule):
            try:
                yield come
            finally:
                go.set()

    @contextmanager
    def _rule(self, rule: Callable[[Request], int | None]) -> Iterator[None]:
        self._rules.append(rule)
        try:
            yield
        finally:
            self._rules.remove(rule)

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ["REQUEST_METHOD"], environ["RAW_URI"], environ.get("HTTP_RANGE"))
        self.requests.append(request)
        for rule in list(self._rules):
            if (status := rule(request)) is not None:
                # Unread, a large body would be cut off by a reset instead of being answered.
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                body = f"<Error><Code>{self._code}</Code><Message>{self._code}</Message></Error>"
                start_response(f"{status} {self._code}", [("Content-Type", "application/xml")])
                # A body behind a HEAD would be taken for the next answer on the same connection.
                return [] if request.method == "HEAD" else [body.encode()]
        return self._backend(environ, start_response)


def _matches(request: Request, method: str, pattern: str) -> bool:
    return request.method == method and re.search(pattern, request.target) is not None
