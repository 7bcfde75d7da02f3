"""A run as a page: complete, safe, small, readable anywhere, and honest about what is not there."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from browser import browser, one_browser  # noqa: F401 - fixtures
from omni_diffusion.cli import app
from omni_diffusion.errors import OmniError
from omni_diffusion.training.curves import POINTS, charts, summary, thinned
from omni_diffusion.training.curves_page import write_page
from omni_diffusion.training.metrics_file import NAME, read_metrics

HOSTILE = "<script>alert(1)</script>&\"'"
TASKS = ("asr", "tts", "t2i", "caption")


def record(step: int, kind: str, rng: np.random.Generator, tasks=TASKS) -> dict:
    fall = float(np.exp(-step / 150))
    loss = {task: 2 + 6 * fall + i / 3 + float(rng.normal() * 0.2) for i, task in enumerate(tasks)}
    ratios = {f"{i / 10:.1f}-{(i + 1) / 10:.1f}": 1 + i / 2 + 4 * fall for i in range(10)}
    return {
        "kind": kind,
        "step": step,
        "loss": float(np.mean(list(loss.values()))),
        "cross_entropy": 3.0,
        "loss_by": {
            "task": loss,
            "modality": {"text": 2.0 + fall, "image": 6 + fall, "speech": 5 + fall},
            "t": ratios,
        },
        "tokens": {"useful": 12_000, "tail_pads": 90, "targets": 5000, "positions": 12_288},
        "fill": 0.985,
        "samples": 14,
        "left_out": 0,
        "data_wait_s": abs(float(rng.normal())) * 0.02,
        "seconds": 1.5,
        "useful_tokens_per_s": 8000.0 + float(rng.normal() * 100),
        "memory_mb": 900.0 + step / 10,
        "mfu": None,
        "grad_norm": 1 + fall,
        "lr": 1e-4,
    }


def make_run(folder: Path, steps: int = 400, tasks=TASKS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = [record(0, "eval", rng, tasks)]
    for step in range(1, steps + 1):
        lines.append(record(step, "train", rng, tasks))
        if step % max(steps // 8, 1) == 0:
            lines.append(record(step, "eval", rng, tasks))
    (folder / NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def add_samples(run: Path) -> None:
    import soundfile

    rng = np.random.default_rng(1)
    for step in (100, 400):
        folder = run / "samples" / f"step-{step}"
        folder.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(folder / "t2i.png")
        soundfile.write(folder / "tts.wav", rng.normal(0, 0.05, 8000), 16_000)
        (folder / "asr.txt").write_text(f"what was heard {HOSTILE}")
        (folder / "notes.bin").write_bytes(b"not shown")


@given(n=st.integers(0, 3 * POINTS + 7))
def test_thinning_keeps_the_mean_and_the_last_step(n) -> None:
    points = np.stack([np.arange(n), np.sqrt(np.arange(n))], axis=1).astype(float)
    found = thinned(points, POINTS)
    assert len(found) == min(n, POINTS)
    if n:
        edges = np.linspace(0, n, len(found) + 1).astype(int)
        mean = np.average(found[:, 1], weights=np.diff(edges))
        assert mean == pytest.approx(points[:, 1].mean())
        assert found[-1, 0] == n - 1 and (np.diff(found[:, 0]) > 0).all()


def test_charts_hold_what_was_recorded_and_nothing_else(tmp_path) -> None:
    records = read_metrics(make_run(tmp_path, 120))
    found = {chart.title: chart for chart in charts(records)}
    assert "Model FLOPs utilisation" not in found  # null throughout
    loss = found["Loss"].lines
    assert [line.held_out for line in loss] == [False, True]
    evaluations = [r for r in records if r["kind"] == "eval"]
    assert loss[1].values.tolist() == [r["loss"] for r in evaluations]
    assert loss[0].values.tolist() == [r["loss"] for r in records if r["kind"] == "train"]
    by_task = found["Cross-entropy by task"].lines
    assert {line.name for line in by_task} == set(TASKS) and len(by_task) == 2 * len(TASKS)
    assert [line.name for line in found["Cross-entropy by mask ratio"].lines[:2]] == [
        "0.0-0.1",
        "0.1-0.2",
    ]
    glance = summary(records)
    assert glance["steps"] == "120" and glance["useful tokens"] == "1,440,000"
    assert glance["tokens a second"] == "8,000"


def test_a_run_that_only_began_is_drawn_too(tmp_path) -> None:
    run = make_run(tmp_path / "young", 1)
    assert write_page(run, tmp_path / "p.html").stat().st_size < 300_000
    first = (run / NAME).read_text().splitlines()[0]
    (run / NAME).write_text(first + "\n")
    write_page(run, tmp_path / "p.html")
    (run / NAME).write_text("")
    with pytest.raises(OmniError, match="has not finished a step"):
        write_page(run, tmp_path / "p.html")


def test_the_verb_writes_one_small_page_whatever_the_length_of_the_run(tmp_path) -> None:
    sizes = []
    for steps in (400, 4000):
        run = make_run(tmp_path / str(steps), steps)
        out = tmp_path / f"{steps}.html"
        done = CliRunner().invoke(app, ["curves", str(run), "-o", str(out)])
        assert done.exit_code == 0, done.output
        sizes.append(out.stat().st_size)
    assert sizes[1] < 1.6 * sizes[0] < 1_000_000
    failed = CliRunner().invoke(app, ["curves", str(tmp_path)])
    assert isinstance(failed.exception, OmniError) and "metrics.jsonl" in str(failed.exception)


def test_nothing_in_a_run_can_script_the_page(tmp_path) -> None:
    run = make_run(tmp_path / "run<b>", 60, tasks=(HOSTILE, "</style><b>", "asr"))
    (run / "recipe.yaml").write_text(f"data: {HOSTILE}\n")
    add_samples(run)
    text = write_page(run, tmp_path / "p.html").read_text()
    assert "<script" not in text and "<b>" not in text and "notes.bin" not in text
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]*"', text.replace('xlink:href="#', '"#'))


def test_older_samples_give_way_to_newer_ones(tmp_path, monkeypatch) -> None:
    run = make_run(tmp_path / "r", 60)
    add_samples(run)
    (run / "samples/step-400").rename(run / "samples/step-500.new")
    text = write_page(run, tmp_path / "p.html").read_text()
    assert "step-100" in text and "step-500" not in text  # it is still being made
    (run / "samples/step-500.new").rename(run / "samples/step-400")
    monkeypatch.setattr("omni_diffusion.training.curves_page._MOST_BYTES", 31_000)
    text = write_page(run, tmp_path / "p.html").read_text()
    assert "step-400" in text and "older files are left out" in text


def test_the_page_reads_well_in_a_browser(browser, tmp_path) -> None:  # noqa: F811
    """Light and dark, on a desk and on a phone; it asks for nothing and complains of nothing."""
    run = make_run(tmp_path / "stage-2", 400)
    add_samples(run)
    page = write_page(run, tmp_path / "p.html")
    browser.open(page)
    assert browser.complaints() == [] and browser.requests() == [page.as_uri()]
    count = len(charts(read_metrics(run)))
    assert browser.evaluate("document.querySelectorAll('.chart svg').length") == count
    colour = "getComputedStyle(document.querySelector('svg .s, svg path[style*=s1]')).stroke"
    light = browser.evaluate(colour)
    browser.dark()
    assert browser.evaluate(colour) != light
    assert browser.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    for width in (1280, 360):
        browser.size(width, 800, phone=width < 500)
        assert browser.overflow() == 0
    small = "Math.min(...[...document.querySelectorAll('svg text')]"
    assert browser.evaluate(f"{small}.map(t => t.getBoundingClientRect().height))") >= 8
