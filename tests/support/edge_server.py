"""A server on loopback that speaks Edge's read-aloud protocol over TLS, and can be made to fail.

edge-tts connects to `speech.platform.bing.com` as ever; an HTTP proxy beside the server leads that
name here, and the certificate is of an authority that only the test trusts. The voice is Pico's.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import ssl
import struct
from collections import Counter
from email.utils import formatdate
from functools import cache
from threading import Thread
from typing import Any
from xml.etree import ElementTree

import numpy as np
import soundfile
import soxr
import trustme
from aiohttp import WSCloseCode, web

from omni_diffusion.sdvi.engines.engine import Speech
from omni_diffusion.sdvi.engines.pico import PicoEngine

HOST = "speech.platform.bing.com"
_PATH = "/consumer/speech/synthesize/readaloud/edge/v1"
_TOKEN = re.compile(r"([0-9A-F]{16}-)?[0-9A-F]{64}")
_RATE_HZ = 24_000
_FRAME_BYTES = 720

Fault = str
"""`403`, `403-no-date`, `429`, `503`, `drop`, `truncate`, `half-sentences`, `no-audio`, `unknown`,
`hang`, `garbage`; or "" for a good answer."""


class EdgeServer:
    """Answers requests with Pico's voice, or with a fault.

    Attributes:
        faults: text to the fault that its first so many requests meet; "" stands for the
            handshake, when the text is not known yet.
        proxy: URL of the HTTP proxy that leads to the server.
        requests: how often each text was asked for.
        most_at_once: the highest number of requests that were being answered at one time.
    """

    def __init__(self) -> None:
        self.faults: dict[str, tuple[Fault, int]] = {}
        self.requests: Counter[str] = Counter()
        self.most_at_once = 0
        self._at_once = 0
        self._engine = PicoEngine()
        self._authority = trustme.CA()
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._authority.issue_cert(HOST).configure_cert(self._tls)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    def trust(self, context: ssl.SSLContext) -> None:
        """Make a client's context accept the server's certificate."""
        self._authority.configure_trust(context)

    def close(self) -> None:
        """Stop serving."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def speech(self, text: str, rate: float = 1.0) -> Speech:
        """What a client must receive for a text, up to what MP3 loses."""
        pico = self._engine.synthesize(text, "en-US@1.00", rate)
        return Speech(soxr.resample(pico.samples, pico.sample_rate_hz, _RATE_HZ), _RATE_HZ)

    @cache  # noqa: B019 # the server lives as long as the tests that use it
    def _spoken(self, text: str, rate: float) -> tuple[float, bytes]:
        speech = self.speech(text, rate)
        return speech.duration_s, _mp3(speech)

    def _fault(self, text: str) -> Fault:
        """What becomes of this request for a text, which is counted."""
        fault, times = self.faults.get(text, ("", 0))
        self.requests[text] += 1
        return fault if self.requests[text] <= times else ""

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get(_PATH, self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self._proxy = await asyncio.start_server(self._tunnel, "127.0.0.1", 0)
        self.proxy = f"http://127.0.0.1:{self._proxy.sockets[0].getsockname()[1]}"

    async def _stop(self) -> None:
        self._proxy.close()
        await self._runner.cleanup()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(f"CONNECT {HOST}:443 ".encode()):
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            writer.close()
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if not _TOKEN.fullmatch(request.query.get("Sec-MS-GEC", "")):
            return web.Response(status=400, text="no token")
        socket = web.WebSocketResponse(compress=True)
        if fault := self._fault(""):
            date = "yesterday" if fault == "403-no-date" else formatdate(usegmt=True)
            return web.Response(status=int(fault[:3]), headers={"Date": date})
        await socket.prepare(request)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await self._converse(socket)
        finally:
            self._at_once -= 1
        return socket

    async def _converse(self, socket: web.WebSocketResponse) -> None:
        config = await socket.receive_str()
        assert "Path:speech.config" in config
        assert "audio-24khz-48kbitrate-mono-mp3" in config
        head, _, ssml = (await socket.receive_str()).partition("\r\n\r\n")
        assert "Path:ssml" in head
        prosody = next(e for e in ElementTree.fromstring(ssml).iter() if e.tag.endswith("prosody"))
        text, rate = prosody.text or "", 1 + int(prosody.attrib["rate"].rstrip("%")) / 100
        fault = self._fault(text)
        await _send_text(socket, "turn.start", {})
        if fault == "hang":
            await asyncio.sleep(30)
        elif fault == "no-audio":
            await _send_text(socket, "turn.end", {})
        elif fault == "unknown":
            await _send_text(socket, "surprise", {})
        elif fault == "garbage":
            await _send_audio(socket, b"this is no MP3 at all " * 40)
            await _send_text(socket, "turn.end", {})
        else:
            await self._speak(socket, text, rate, fault)
        await socket.close(code=WSCloseCode.OK)

    async def _speak(
        self, socket: web.WebSocketResponse, text: str, rate: float, fault: Fault
    ) -> None:
        duration_s, mp3 = self._spoken(text, rate)
        sentences = re.split(r"(?<=[.?!])\s+", text.strip())
        share = duration_s / len(sentences)
        if fault == "truncate":
            mp3 = mp3[: len(mp3) // 2]
        for i, sentence in enumerate(sentences):
            if fault == "half-sentences" and i >= len(sentences) / 2:
                break
            data = {
                "Offset": int(i * share * 1e7),
                "Duration": int(share * 1e7),
                "text": {"Text": sentence, "Length": len(sentence), "BoundaryType": "Sentence"},
            }
            metadata = {"Metadata": [{"Type": "SentenceBoundary", "Data": data}]}
            await _send_text(socket, "audio.metadata", metadata)
        for i, start in enumerate(range(0, len(mp3), _FRAME_BYTES)):
            await _send_audio(socket, mp3[start : start + _FRAME_BYTES])
            if fault == "drop" and i == 3:
                assert socket._req is not None
                transport: Any = socket._req.transport
                transport.abort()
                return
        await _send_text(socket, "turn.end", {})


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, asyncio.CancelledError):
        pass
    finally:
        writer.close()


async def _send_text(socket: web.WebSocketResponse, path: str, value: Any) -> None:
    await socket.send_str(
        f"X-RequestId:1\r\nContent-Type:application/json; charset=utf-8\r\nPath:{path}\r\n\r\n"
        + json.dumps(value)
    )


async def _send_audio(socket: web.WebSocketResponse, data: bytes) -> None:
    head = b"X-RequestId:1\r\nContent-Type:audio/mpeg\r\nPath:audio\r\n"
    await socket.send_bytes(struct.pack(">H", len(head)) + head + data)


def _mp3(speech: Speech) -> bytes:
    """48 kbit/s, as the service sends it."""
    sink = io.BytesIO()
    soundfile.write(
        sink,
        np.clip(speech.samples, -1, 1),
        speech.sample_rate_hz,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="CONSTANT",
        compression_level=0.72,
    )
    return sink.getvalue()
