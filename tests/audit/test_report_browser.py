"""The page in a browser: it renders, plays, fits, and no caption breaks or commands it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from typer.testing import CliRunner

from browser import Browser
from hostile import ATTACKS, GRID, SOUND_CODES, make_hostile
from omni_diffusion.audit.report.text import shortened, visible
from omni_diffusion.cli import app

TITLE = "</title><script>window.attacked = 1</script>"

CONTRAST = """
(() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const rgba = colour => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return context.getImageData(0, 0, 1, 1).data;
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255];
  };
  const low = new Set();
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !element.checkVisibility() || element.closest(".unseen")) continue;
    const style = getComputedStyle(element);
    const colour = rgba(element.closest("svg") ? style.fill : style.color);
    const pair = [luminance(colour), luminance(behind(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) low.add(`${element.tagName}.${element.className}: ${ratio.toFixed(2)}`);
  }
  return [...low];
})()
"""


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the hostile corpus."""
    folder = tmp_path_factory.mktemp("hostile")
    root, out = make_hostile(folder / "corpus"), folder / "report.html"
    told = ["report", root, "-o", str(out), "--title", TITLE, "--cache", str(folder / "cache")]
    result = CliRunner().invoke(app, told, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return out


def test_it_renders_without_complaints_and_asks_for_nothing(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.evaluate("document.querySelector('h1').innerText") == TITLE
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]
    broken = "[...document.images].filter(i => !(i.complete && i.naturalWidth && i.alt)).length"
    assert browser.evaluate(broken) == 0
    width = "Math.max(...[...document.querySelectorAll('.turn img')].map(i => i.naturalWidth))"
    assert browser.evaluate(width) == 16 * GRID


def test_headings_are_in_order(browser: Browser, page: Path) -> None:
    browser.open(page)
    levels = browser.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(h => +h.tagName[1])"
    )
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    goals = "[...document.links].filter(a => !document.querySelector(a.getAttribute('href')))"
    assert browser.evaluate(f"{goals}.length") == 0


def test_no_text_becomes_a_part_of_the_page(browser: Browser, page: Path) -> None:
    browser.open(page)
    foreign = "script, iframe, form, base, link:not([href='data:,']), object, embed, animate"
    assert browser.evaluate(f'document.querySelectorAll("{foreign}, textarea").length') == 0
    assert browser.evaluate("document.querySelectorAll('meta[http-equiv]').length") == 1
    assert browser.evaluate("document.querySelectorAll('style').length") == browser.evaluate(
        "1 + [...document.querySelectorAll('svg style')].length"
    )
    listening = """[...document.querySelectorAll('*')].flatMap(e => [...e.attributes])
        .filter(a => a.name.startsWith('on') || a.name === 'autofocus' || a.name === 'srcdoc')"""
    assert browser.evaluate(f"{listening}.length") == 0
    away = "[...document.links].filter(a => !a.getAttribute('href').startsWith('#')).length"
    assert browser.evaluate(away) == 0
    assert (
        browser.evaluate("window.attacked === undefined && document.visibilityState") == "visible"
    )
    assert browser.evaluate("document.querySelectorAll('.card').length") == len(ATTACKS)
    assert browser.evaluate("document.querySelectorAll('main > section').length") == 12


def test_every_attack_stands_there_as_text(browser: Browser, page: Path) -> None:
    browser.open(page)
    texts = browser.evaluate("[...document.querySelectorAll('.text')].map(e => e.textContent)")
    for attack in ATTACKS:
        shown, left_out = shortened(attack.strip())
        shown = visible(shown)
        if left_out:
            shown += f" … {left_out:,} more characters"
        assert shown in texts


def test_no_text_turns_its_surroundings(browser: Browser, page: Path) -> None:
    """Texts are isolated, so the page around them keeps its direction."""
    browser.open(page)
    turned = """[...document.querySelectorAll('main section, .card, .answer, table')]
        .filter(e => getComputedStyle(e).direction !== 'ltr').length"""
    assert browser.evaluate(turned) == 0
    assert not set(browser.evaluate("document.body.innerText")) & set("\u202e\u2066\x00\x1b\u2028")


def test_sounds_load_and_play(browser: Browser, page: Path) -> None:
    browser.open(page)
    sounds = browser.evaluate("document.querySelectorAll('audio').length")
    assert sounds == len(ATTACKS) // 3
    for i in range(sounds):
        sound = f"document.querySelectorAll('audio')[{i}]"
        browser.wait(f"{sound}.readyState >= 1")
        duration_s = browser.evaluate(f"{sound}.duration")
        assert abs(duration_s - SOUND_CODES / 12.5) < 0.3
        assert browser.evaluate(f"{sound}.controls && !!{sound}.ariaLabel")
    first = "document.querySelector('audio')"
    assert browser.evaluate(f"{first}.muted = true, {first}.play().then(() => 'plays')") == "plays"
    browser.wait(f"{first}.currentTime > 0")
    assert browser.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_in_light_and_dark(browser: Browser, page: Path, dark: bool) -> None:
    browser.dark(dark)
    browser.open(page)
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(int(part) for part in background[4:-1].split(","))
    assert (light < 150) == dark
    assert browser.evaluate(CONTRAST) == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_scrolls_sideways(browser: Browser, page: Path, width: int) -> None:
    browser.size(width, 844, phone=width < 500)
    browser.open(page)
    assert browser.overflow() == 0
    assert browser.evaluate("document.documentElement.clientWidth") == width
    browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert browser.overflow() == 0


def test_tasks_can_be_chosen_without_a_script(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.evaluate("document.querySelector('label[for=show-1]').click()")
    shown = "[...document.querySelectorAll('.card')].filter(c => c.checkVisibility())"
    assert browser.evaluate(f"{shown}.length") == len(ATTACKS) // 3
    assert browser.evaluate(f"new Set({shown}.map(c => c.className)).size") == 1
    browser.evaluate("document.querySelector('label[for=show-0]').click()")
    assert browser.evaluate(f"{shown}.length") == len(ATTACKS)
