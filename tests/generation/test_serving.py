"""The server: what it answers, what it refuses, and that it stays up."""

import base64
import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image

from browser import Browser, browser, one_browser  # noqa: F401 - fixtures
from checkpoints import FINGERPRINTS, demo_dream
from omni_diffusion.generation.generation_recipe import GenerationRecipe
from omni_diffusion.generation.kit import Kit, Names
from omni_diffusion.generation.serving.app import build_app
from omni_diffusion.generation.serving.desk import Bounds
from omni_diffusion.generation.studio import Studio
from omni_diffusion.tokenize.text import TextTokenizer

KIT = Kit(TextTokenizer.from_pretrained("demo"), Names(), FINGERPRINTS)
RECIPE = GenerationRecipe.from_preset(t2i={"sampler": {"steps": 6}})
DRAW = {"task": "t2i", "text": "a ball"}
SPEAK = {"task": "chat", "text": "hello", "tokens": 8}


class Gate:
    """Holds the worker before a request is laid out, until the test opens it."""

    def __init__(self, studio: Studio) -> None:
        self.open = threading.Event()
        self._prepare = studio.prepare
        studio.prepare = self.prepare  # type: ignore[method-assign]

    def prepare(self, ask):
        self.open.wait()
        return self._prepare(ask)


class Served:
    """A running server and a client for it."""

    def __init__(self, port: int, studio: Studio) -> None:
        self.port, self.studio = port, studio
        self.url = f"http://127.0.0.1:{port}/"

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        link = http.client.HTTPConnection("127.0.0.1", self.port)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} | (headers or {})
        link.request(method, path, data, sent)
        answer = link.getresponse()
        text = answer.read()
        link.close()
        kind = answer.headers.get("Content-Type", "")
        return answer.status, json.loads(text) if kind == "application/json" else text.decode()

    def ask(self, body: Any) -> tuple[int, Any]:
        return self.send("POST", "/api/answers", body)

    def events(self, path: str) -> list[dict[str, Any]]:
        """All states until the final one."""
        status, text = self.send("GET", path)
        assert status == 200
        lines = [line for line in text.splitlines() if line.startswith("data: ")]
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    def answer(self, body: Any) -> dict[str, Any]:
        status, told = self.ask(body)
        assert status == 202, told
        return self.events(told["events"])[-1]


@contextmanager
def serving(bounds: Bounds, gated: bool = False) -> Iterator[Served]:
    studio = Studio(demo_dream(), KIT, RECIPE)
    gate = Gate(studio) if gated else None
    app = build_app(studio, bounds, ("127.0.0.1", "localhost"))
    config = uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    ready = threading.Event()
    started = server.startup

    async def startup(sockets=None):
        await started(sockets)
        ready.set()

    server.startup = startup  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(300)
    served = Served(server.servers[0].sockets[0].getsockname()[1], studio)
    served.gate = gate  # type: ignore[attr-defined]
    try:
        yield served
    finally:
        if gate:
            gate.open.set()
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(Bounds(preview_s=0.0)) as running:
        yield running


def encoded(picture: Image.Image) -> str:
    sink = BytesIO()
    picture.save(sink, "PNG")
    return base64.b64encode(sink.getvalue()).decode()


def test_a_picture_is_drawn_and_its_steps_are_told(served: Served) -> None:
    status, told = served.ask(DRAW)
    assert status == 202
    states = served.events(told["events"])
    last = states[-1]
    assert last["stage"] == "done" and last["facts"]["picture_codes"] == 256
    data = base64.b64decode(last["picture"].removeprefix("data:image/png;base64,"))
    with Image.open(BytesIO(data)) as picture:
        assert picture.size == (256, 256)
    steps = [state for state in states if state["stage"] == "running"]
    assert all(state["hidden"].count("1") == 256 - state["known"] for state in steps)
    # Whoever comes later is told the same.
    assert served.send("GET", f"/api/answers/{told['id']}")[1] == last


def test_what_is_asked_together_is_answered_as_alone(served: Served) -> None:
    alone = served.answer(DRAW)
    others = [SPEAK, DRAW, {"task": "tts", "text": "a ball"}]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(served.answer, others))
    assert together[1]["picture"] == alone["picture"]
    assert together[2]["sound"].startswith("data:audio/wav;base64,")
    assert [t["stage"] for t in together] == ["done"] * 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"task": "sing"}, "none of t2i"),
        ({"text": "x"}, "no task"),
        ({"task": "t2i"}, "t2i needs text"),
        ({**DRAW, "temprature": 1}, "unknown key 'temprature'"),
        ({**DRAW, "seed": "1"}, "seed must be a whole number"),
        ({**DRAW, "steps": 0}, "steps"),
        ({"task": "caption", "image": "***"}, "not valid base64"),
        ([DRAW], "JSON object"),
        (b"{", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b"\xff", "not valid JSON"),
    ],
)
def test_a_request_without_sense_is_refused_at_once(served: Served, body, message) -> None:
    status, told = served.ask(body)
    assert status == 400 and message in told["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"task": "caption", "image": base64.b64encode(b"no picture").decode()},
            "image: not a picture",
        ),
        ({"task": "asr", "audio": base64.b64encode(b"no sound").decode()}, "audio: "),
        ({"task": "chat", "text": "word " * 2000}, "more than the 1024"),
    ],
)
def test_what_turns_out_later_is_told_in_words(served: Served, body, message) -> None:
    last = served.answer(body)
    assert last["stage"] == "failed" and message in last["error"]
    assert served.answer(SPEAK)["stage"] == "done"


def test_too_large_foreign_and_unknown_requests(served: Served) -> None:
    large = b"x" * ((16 << 20) + 1)
    status, told = served.send("POST", "/api/answers", large, {"Content-Length": str(len(large))})
    assert status == 413 and "16 MiB" in told["error"]
    form = {"Content-Type": "text/plain"}
    assert served.send("POST", "/api/answers", b"{}", form)[0] == 415
    assert served.send("GET", "/", headers={"Host": "evil.example"})[0] == 400
    assert served.send("GET", "/api/answers/none")[0] == 404
    assert served.send("GET", "/api/answers/none/events")[0] == 404


def test_a_hundred_requests_at_once_meet_the_bound_and_the_server_stays_up() -> None:
    bounds = Bounds(waiting=5, together=2, kept=3)
    with serving(bounds, gated=True) as served, ThreadPoolExecutor(100) as pool:
        told = list(pool.map(lambda _: served.ask(SPEAK), range(100)))
        taken = [answer for status, answer in told if status == 202]
        refused = [answer["error"] for status, answer in told if status == 503]
        # The worker holds none yet: the first still has its place.
        assert (len(taken), len(refused)) == (5, 95)
        assert all("requests are waiting already" in error for error in refused)
        served.gate.open.set()  # type: ignore[attr-defined]
        finals = list(pool.map(lambda answer: served.events(answer["events"])[-1], taken))
        assert [state["stage"] for state in finals] == ["done"] * 5
        assert served.answer(SPEAK)["stage"] == "done"
        about = served.send("GET", "/api/about")[1]
        assert (about["waiting"], about["running"]) == (0, 0)
        assert about["kept"] <= bounds.kept + 1


def test_a_request_that_breaks_off_gives_its_place_back() -> None:
    with serving(Bounds(waiting=1)) as served:
        for _ in range(3):
            link = http.client.HTTPConnection("127.0.0.1", served.port)
            link.putrequest("POST", "/api/answers")
            link.putheader("Content-Type", "application/json")
            link.putheader("Content-Length", "1000")
            link.endheaders(b"{")
            link.close()
        status = 503
        while status == 503:  # until the server has seen that they are gone
            status, _ = served.ask(SPEAK)
        assert status == 202


def test_nobody_wants_it_any_more() -> None:
    with serving(Bounds(), gated=True) as served:
        _, told = served.ask(DRAW)
        _, second = served.ask(SPEAK)
        assert served.send("DELETE", f"/api/answers/{second['id']}")[0] == 200
        served.gate.open.set()  # type: ignore[attr-defined]
        assert served.events(second["events"])[-1]["stage"] == "cancelled"
        assert served.events(told["events"])[-1]["stage"] == "done"


def test_a_fault_of_ours_is_told_and_does_not_end_the_server(served: Served, caplog) -> None:
    step = served.studio.model.forward

    def broken(*_args):
        served.studio.model.forward = step  # type: ignore[method-assign]
        raise RuntimeError("a bug")

    served.studio.model.forward = broken  # type: ignore[method-assign]
    last = served.answer(SPEAK)
    assert last["stage"] == "failed" and "internal error" in last["error"]
    assert "a bug" in caplog.text
    assert served.answer(SPEAK)["stage"] == "done"


def test_the_page_draws_a_picture_step_by_step(
    served: Served,
    browser: Browser,  # noqa: F811
) -> None:
    browser.open(served.url)
    browser.wait("document.getElementById('model').textContent.includes('demo tokenizers')")
    browser.evaluate("document.getElementById('text').value = 'a ball'")
    browser.evaluate("document.getElementById('steps').value = '12'")
    browser.evaluate("document.getElementById('go').click()")
    browser.wait("document.getElementById('status').textContent.startsWith('Done')")
    # The canvas was painted while the answer was under way, and last without a veil.
    browser.wait("Number(document.getElementById('picture').dataset.frames) > 1")
    assert browser.evaluate("document.getElementById('picture').hidden") is False
    assert browser.evaluate("document.getElementById('go').disabled") is False
    assert browser.complaints() == []
    assert all(url.startswith(served.url) for url in browser.requests())


def test_the_page_shows_what_a_task_needs_and_says_what_is_wrong(
    served: Served,
    browser: Browser,  # noqa: F811
    tmp_path: Path,
) -> None:
    browser.open(served.url)
    shown = "[...document.querySelectorAll('[data-for]')].filter(l => !l.hidden)"
    shown += ".map(l => l.dataset.for)"
    choose = "const s = document.getElementById('task'); s.value = '{}';"
    choose += "s.dispatchEvent(new Event('change'))"
    browser.evaluate(choose.format("svqa").replace("const ", "var "))
    assert browser.evaluate(shown) == ["image", "audio"]
    (tmp_path / "not.png").write_bytes(b"no picture")
    browser.evaluate(choose.format("caption").replace("const ", "var "))
    browser.driver.find_element("id", "image").send_keys(str(tmp_path / "not.png"))
    browser.evaluate("document.getElementById('go').click()")
    browser.wait("!document.getElementById('error').hidden")
    assert "not a picture" in browser.evaluate("document.getElementById('error').textContent")
    browser.size(360, 740, phone=True)
    assert browser.overflow() == 0


def test_bounds_are_what_the_server_says(served: Served) -> None:
    told = served.send("GET", "/api/about")[1]
    assert told["body_bytes"] == replace(Bounds()).body_bytes
    assert set(told["tasks"]) == {
        "t2i", "s2i", "tts", "asr", "caption", "vqa", "svqa", "sqa", "chat"
    }  # fmt: skip
