"""An S3 server behind a bad network: a proxy that spoils some requests, by programme or by seed.

    with flaky_s3(seed=1, rate=0.3) as store:                # 3 of 10 requests, the same every time
        os.environ |= store.environment()
        ...
    with flaky_s3() as store:
        with store.spoiling("reset", "GET", r"00000\\.tar", times=2) as spoilt: ...
        with store.gone(): ...                               # nobody listens at the address

| fault | what happens | has the store done it? |
|---|---|---|
| slow_down | 503 `SlowDown` | no |
| throttled | 429 `TooManyRequests` | no |
| internal | 500 `InternalError` | no |
| refused | the connection is reset without an answer | no |
| lost | the connection is reset instead of the answer | yes |
| reset | the connection is reset in the middle of the answer's body | yes |
| cut | the connection ends in the middle of the answer's body | yes |
| short | an answer that lacks the end of its body and does not say so | yes |
"""

from __future__ import annotations

import random
import re
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import urlsplit

from s3server import S3Server

REFUSALS = {
    "slow_down": (503, "SlowDown"),
    "throttled": (429, "TooManyRequests"),
    "internal": (500, "InternalError"),
}
BREAKS = ("refused", "lost", "reset", "cut")
TRANSIENT = (*REFUSALS, *BREAKS)
"""What honest stores and networks do; `short` is a broken proxy's doing and must be asked for."""
FAULTS = (*TRANSIENT, "short")

_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}


@dataclass(frozen=True)
class Spoilt:
    """A request that met a fault."""

    fault: str
    method: str
    target: str
    range: str | None


@dataclass
class _Rule:
    fault: str
    method: str
    pattern: str
    times: int | None
    met: list[Spoilt] = field(default_factory=list)


class FlakyS3:
    """See the module. Made by `flaky_s3`.

    Attributes:
        backend: the store behind it, as it is without faults; counts what reached it.
        spoilt: every request that met a fault, in order.
        asked: how many requests came.
    """

    def __init__(self, backend: S3Server, seed: int, rate: float, faults: Sequence[str]) -> None:
        assert set(faults) <= set(FAULTS)
        self.backend = backend
        self.spoilt: list[Spoilt] = []
        self.asked = 0
        self._seed, self._rate, self._faults = seed, rate, faults
        self._rules: list[_Rule] = []
        self._seen: Counter[tuple[str, str, str | None]] = Counter()
        self._lock = Lock()
        self._connections: list[socket.socket] = []
        self._listen(0)

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self._port}"

    def environment(self) -> dict[str, str]:
        """Variables that make any S3 client talk to this endpoint, and to no other."""
        return self.backend.environment() | {"AWS_ENDPOINT_URL": self.url}

    @contextmanager
    def spoiling(
        self, fault: str, method: str = "", pattern: str = "", times: int | None = None
    ) -> Iterator[list[Spoilt]]:
        """Spoil requests that match, at most `times`; yields those that were."""
        assert fault in FAULTS
        rule = _Rule(fault, method, pattern, times)
        self._rules.append(rule)
        try:
            yield rule.met
        finally:
            self._rules.remove(rule)

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Refuse connections, as if the host were down, to the end of the block."""
        self.close()
        try:
            yield
        finally:
            self._listen(self._port)

    def make_bucket(self, name: str) -> None:
        """Make a bucket, past all faults."""
        connection = HTTPConnection(urlsplit(self.backend.url).netloc)
        connection.request("PUT", f"/{name}")
        assert connection.getresponse().status == 200
        connection.close()

    def close(self) -> None:
        """Stop listening, and hang up on everybody."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for connection in self._connections:
            with suppress(OSError):  # closed by its client
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    def _listen(self, port: int) -> None:
        proxy = self

        class Handler(_Handler):
            store = proxy

            def setup(self) -> None:
                super().setup()
                proxy._connections.append(self.connection)

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_port
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def fault_for(self, method: str, target: str, byte_range: str | None) -> str | None:
        """What happens to this request.

        A seeded fault depends on what is asked and how often it was asked before, not on the order
        in which threads get their turn.
        """
        with self._lock:
            self.asked += 1
            ask = method, target, byte_range
            self._seen[ask] += 1
            for rule in self._rules:
                if rule.method in ("", method) and re.search(rule.pattern, target):
                    if len(rule.met) == rule.times:
                        continue
                    rule.met.append(Spoilt(rule.fault, *ask))
                    self.spoilt.append(rule.met[-1])
                    return rule.fault
            dice = random.Random(repr((self._seed, *ask, self._seen[ask])))
            if dice.random() >= self._rate:
                return None
            self.spoilt.append(Spoilt(dice.choice(self._faults), *ask))
            return self.spoilt[-1].fault


@contextmanager
def flaky_s3(
    *, seed: int = 0, rate: float = 0.0, faults: Sequence[str] = TRANSIENT
) -> Iterator[FlakyS3]:
    """A store of its own behind a proxy that spoils a share `rate` of all requests."""
    backend = S3Server()
    store = FlakyS3(backend, seed, rate, faults)
    try:
        yield store
    finally:
        store.close()
        backend.close()


class _Handler(BaseHTTPRequestHandler):
    """One client's connection: each request is spoilt, or passed on as it is."""

    protocol_version = "HTTP/1.1"
    store: FlakyS3

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        # Read in any case: an unread body would turn an answer into a reset.
        body = self.rfile.read(length)
        fault = self.store.fault_for(self.command, self.path, self.headers.get("Range"))
        if fault in REFUSALS:
            self._refuse(*REFUSALS[fault])
        elif fault == "refused":
            self._reset()
        else:
            self._pass_on(body, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer

    def _pass_on(self, body: bytes, fault: str | None) -> None:
        connection = HTTPConnection(urlsplit(self.store.backend.url).netloc, timeout=60)
        try:
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        if fault == "lost":
            self._reset()
            return
        whole = fault is None or not data
        sent = data if whole else data[: len(data) // 2]
        self._head(response, len(sent) if fault == "short" else len(data))
        self.wfile.write(sent)
        if fault == "reset":
            self.wfile.flush()
            self._reset()
        elif fault == "cut":
            self.close_connection = True

    def _head(self, response: HTTPResponse, length: int) -> None:
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        if self.command == "HEAD":  # says how long the object is, and has no body
            self.send_header("Content-Length", response.getheader("Content-Length") or "0")
        elif response.status != 204:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _refuse(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self.send_response_only(status, code)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        # Lingering for 0 seconds makes closing a reset instead of a polite end.
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.rfile.close()
        self.connection.close()
