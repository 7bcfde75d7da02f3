"""A headless Chromium to open pages in, for tests of everything that writes or serves HTML.

    from browser import Browser

    def test_page(browser: Browser, tmp_path):  # a fixture everywhere
        browser.open(tmp_path / "report.html")
        assert browser.complaints() == []

Debian calls the packages `chromium` and `chromium-driver`. Where there is none, tests skip; where
the variable CI is `true`, they fail. No page can reach anything but this machine.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DEADLINE_S = 120
"""Only ends a test that hangs; a loaded machine is slow."""


class Browser:
    """One window. Every method waits for what it asks for, so tests need no sleeps."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path | str) -> None:
        """Load a file or an URL and wait until all of it is there; older complaints are dropped."""
        self._log("browser"), self._log("performance")
        self.driver.get(page.resolve().as_uri() if isinstance(page, Path) else page)
        self.wait("document.readyState === 'complete'")

    def complaints(self) -> list[str]:
        """Warnings and errors of the console since the page was opened."""
        entries = self._log("browser")
        return [e["message"] for e in entries if e["level"] in ("WARNING", "SEVERE")]

    def requests(self) -> list[str]:
        """URLs that were asked for since the page was opened, without `data:` and `blob:` ones."""
        messages = [json.loads(e["message"])["message"] for e in self._log("performance")]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        urls = [params["request"]["url"] for params in sent]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, or what it resolves to if it is a promise.

        The page's Content-Security-Policy does not hold for it.
        """
        answer = self.driver.execute_cdp_cmd(
            "Runtime.evaluate",
            {"expression": expression, "awaitPromise": True, "returnByValue": True},
        )
        if fault := answer.get("exceptionDetails"):
            raise AssertionError(fault.get("exception", fault).get("description", fault))
        return answer["result"].get("value")

    def wait(self, expression: str, deadline_s: float = DEADLINE_S) -> Any:
        """The value of a JavaScript expression as soon as it is true."""
        from selenium.webdriver.support.ui import WebDriverWait

        waiting = WebDriverWait(self.driver, deadline_s, poll_frequency=0.05)
        return waiting.until(lambda _: self.evaluate(expression), f"never true: {expression}")

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        """Give the page so many CSS pixels; a phone has touch and its own viewport rules."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def dark(self, dark: bool = True) -> None:
        """Say that the user likes dark pages, or light ones."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def overflow(self) -> int:
        """CSS pixels by which the page is wider than the window; 0 is good."""
        width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.evaluate(width))

    def screenshot(self, target: Path, *, whole: bool = True) -> None:
        """Write a PNG of the whole page, or of what the window shows."""
        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            page = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
            options["clip"] = {"x": 0, "y": 0, "scale": 1} | {
                name: page[name] for name in ("width", "height")
            }
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", options)
        target.write_bytes(base64.b64decode(shot["data"]))

    def _log(self, name: str) -> list[dict[str, Any]]:
        return self.driver.get_log(name)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser with a profile of its own; it ends with the block."""
    chromium = next(filter(None, map(shutil.which, PROGRAMS)), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        reason = "needs a browser: apt-get install chromium chromium-driver"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "headless=new",
        "no-sandbox",  # of Chromium, which refuses to start as root with it
        "disable-dev-shm-usage",  # containers have 64 MiB there
        "disable-gpu",
        "mute-audio",
        "autoplay-policy=no-user-gesture-required",
        "force-device-scale-factor=1",
        "hide-scrollbars",
        "disable-background-networking",
        "disable-component-update",
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
        "no-proxy-server",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = Chrome(options=options, service=ChromeService(executable_path=driver))
    try:
        window.set_page_load_timeout(DEADLINE_S)
        window.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": True})
        yield Browser(window)
    finally:
        window.quit()


@pytest.fixture(scope="session")
def one_browser() -> Iterator[Browser]:
    """The process behind `browser`, started when a test first wants it."""
    with open_browser() as opened:
        yield opened


@pytest.fixture
def browser(one_browser: Browser) -> Iterator[Browser]:
    """The browser of this test run, with an empty page, light, 1280 x 900."""
    one_browser.size(1280, 900)
    one_browser.dark(False)
    yield one_browser
    one_browser.open("about:blank")
