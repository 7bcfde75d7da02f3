"""The page as a whole, without a browser: what is in it, and what happens to damaged corpora."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

from audits import Varied
from corpora import make_sample
from media_jobs import picture, sound
from omni_diffusion.audit.audit import Audit
from omni_diffusion.audit.named import named_queries
from omni_diffusion.audit.report.answers import SECTIONS, sections
from omni_diffusion.audit.report.encoding import Budget, picture_uri, sound_uri
from omni_diffusion.audit.report.report import Report, ReportSettings, make_report
from omni_diffusion.cli import app
from omni_diffusion.corpus.index import compact
from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.record import Record
from omni_diffusion.corpus.sample import Sample
from omni_diffusion.corpus.shard import write_shard
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import MediaError, WeightsError
from omni_diffusion.tokenize.codes import Codes
from omni_diffusion.tokenize.media import MediaTokenizers


class Loud:
    """Stands for tokenizers: the largest pictures and sounds that a page could be given."""

    def __init__(self, seconds: float = 60.0) -> None:
        rng = np.random.default_rng(0)
        self.pixels = Image.fromarray(rng.integers(0, 255, (512, 512, 3), dtype=np.uint8))
        self.samples = rng.uniform(-1, 1, int(22_050 * seconds)).astype(np.float32)

    def picture(self, _codes: Codes) -> Image.Image:
        return self.pixels

    def sound(self, _codes: Codes) -> tuple[np.ndarray[Any, Any], int]:
        return self.samples, 22_050


class Absent:
    """Tokenizers whose weights are not there; counts how often they are asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def picture(self, _codes: Codes) -> Image.Image:
        self.asked += 1
        raise WeightsError("showlab/magvitv2: <b>no local copy</b>")

    sound = picture


def report_of(root: str, cache: Path, tokenizers: Any, **settings: Any) -> Report:
    def chosen(_fingerprints: Mapping[str, str]) -> Any:
        return tokenizers

    with Audit(root, cache=cache) as audit:
        return make_report(audit, ReportSettings(title="t", **settings), chosen)


def test_every_named_query_is_asked() -> None:
    asked = {question.query for section in sections() for question in section.questions}
    assert asked == set(named_queries())
    assert [s.anchor for s in sections()] == [s.anchor for s in SECTIONS]


def test_a_page_is_a_function_of_corpus_and_settings(varied: Varied, tmp_path: Path) -> None:
    one = report_of(varied.root, tmp_path / "a", Loud(1.0), samples=6)
    other = report_of(varied.root, tmp_path / "b", Loud(1.0), samples=6)
    assert one == other
    assert report_of(varied.root, tmp_path / "a", Loud(1.0), samples=6, seed=1) != one
    assert (one.samples, one.problems, one.faults) == (6, [], [])
    assert one.pictures + one.sounds == 6


def test_a_page_stays_below_its_limit(varied: Varied, tmp_path: Path) -> None:
    """Noise cannot be made small: pictures are left out and sounds are cut."""
    limit = 2_500_000
    report = report_of(varied.root, tmp_path, Loud(), samples=12, max_bytes=limit)
    assert len(report.html.encode()) <= limit
    assert report.samples == 12
    assert "the first" in report.html and report.sounds
    assert "no room left" in report.html


def test_absent_weights_are_asked_for_once_and_explained(varied: Varied, tmp_path: Path) -> None:
    absent = Absent()
    report = report_of(varied.root, tmp_path, absent, samples=30)
    assert (report.samples, report.pictures, report.sounds) == (30, 0, 0)
    assert absent.asked == 2  # of pictures and of speech
    assert "&lt;b&gt;no local copy&lt;/b&gt;" in report.html


def test_codes_of_other_tokenizers_are_not_decoded(varied: Varied, tmp_path: Path) -> None:
    report = report_of(varied.root, tmp_path, MediaTokenizers.demo(), samples=3)
    assert report.pictures == 0
    assert "made by magvit2-demo-1" in report.html


def test_a_corpus_with_missing_shards_is_reported(varied: Varied, tmp_path: Path) -> None:
    root = tmp_path / "broken"
    shutil.copytree(varied.root, root)
    (root / "shards" / "00001.tar").unlink()
    tar = root / "shards" / "00002.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    tar.write_bytes(data)
    report = report_of(str(root), tmp_path / "cache", Loud(1.0), samples=40)
    assert any("shard 1" in problem and "missing" in problem for problem in report.problems)
    assert "1 of 4 shards has a problem" in report.html
    assert report.unread and report.samples
    assert "could not be read" in report.html


def test_an_unfinished_corpus_is_shown_as_far_as_it_goes(varied: Varied, tmp_path: Path) -> None:
    root = tmp_path / "unfinished"
    shutil.copytree(varied.root, root)
    for name in ("corpus.json", "index.parquet"):
        (root / name).unlink()
    report = report_of(str(root), tmp_path / "cache", Loud(1.0), samples=6)
    assert report.samples == 6 and report.pictures
    assert "its job has not finished" in report.html


def test_a_media_corpus_shows_its_files(tmp_path: Path) -> None:
    """Nothing is decoded from codes, and nothing is asked about tokens."""
    storage = Storage(tmp_path / "corpus")
    made = []
    for i in range(3):
        content = "<|image|><|image|> and <|audio|><|audio|>"
        files = [f"{i}a", f"{i}b"]
        fields = {"messages": [{"role": "user", "content": content}], "task": "svqa"}
        record = Record.from_dict({**fields, "images": files, "audios": files})
        images = (picture(i, "PNG"), b"\x89PNG\r\n\x1a\n, cut")
        audios = (sound(i, 0.3, "FLAC"), sound(i, 0.3, "WAV"))
        made.append(MediaRecord(key=f"k{i}", record=record, images=images, audios=audios))
    write_shard(storage, 0, made, {"media": "1"})
    compact(storage)
    absent = Absent()
    report = report_of(str(tmp_path / "corpus"), tmp_path / "cache", absent, samples=3)
    assert (report.samples, report.pictures, report.sounds) == (3, 3, 6)
    assert (report.problems, report.faults, absent.asked) == ([], [], 0)
    assert "own files" in report.html and "Packing fill" not in report.html
    assert report.html.count("not decoded") == 3


def test_spans_that_lie_outside_are_not_shown(tmp_path: Path) -> None:
    """Their checksum is right, so a broken writer made them."""
    storage = Storage(tmp_path / "corpus")
    samples = [make_sample(f"k{i}", i) for i in range(2)]
    wrong = Sample(**{**vars(samples[0]), "spans": samples[0].spans.copy()})
    wrong.spans["length"] = 100
    write_shard(storage, 0, [wrong, samples[1]], {"image": "i", "speech": "s"})
    compact(storage)
    report = report_of(str(tmp_path / "corpus"), tmp_path / "cache", Loud(0.5), samples=2)
    assert (report.samples, report.unread) == (1, 1)
    assert "ends at 100" in report.html


def test_pictures_and_sounds_come_back() -> None:
    time = np.arange(16_000) / 16_000
    tone = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    uri, kept_s = sound_uri(tone, 16_000, 1e9)
    assert uri.startswith("data:audio/mpeg;base64,") and kept_s == 1.0
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert rate == 16_000 and abs(len(heard) - 16_000) < 2000
    spectrum = np.abs(np.fft.rfft(heard[:16_000]))
    assert abs(int(spectrum.argmax()) - 440) <= 2
    with pytest.raises(MediaError, match="no room"):
        sound_uri(tone, 16_000, 100)
    with pytest.raises(MediaError, match="12345"):
        sound_uri(tone, 12_345, 1e9)
    image = Image.new("RGB", (64, 32), (200, 30, 30))
    shown = Image.open(io.BytesIO(base64.b64decode(picture_uri(image).partition(",")[2])))
    assert shown.format == "WEBP" and shown.size == (64, 32)
    red, green, blue = shown.convert("RGB").getpixel((20, 20))
    assert red > 180 and green < 60 and blue < 60


def test_a_budget_passes_on_what_is_saved() -> None:
    budget = Budget(300, 3)
    budget.next_sample()
    assert budget.room == 100
    budget.take("x" * 40)
    assert budget.room == 60
    budget.next_sample()
    assert budget.room == 130
    budget.next_sample()
    assert budget.room == 260


def test_the_verb(varied: Varied, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    weights = tmp_path / "weights.yaml"
    weights.write_text("weights: {t2i: 3, tts: 1}")
    told = [varied.root, "-o", str(out), "--samples", "2", "--cache", str(tmp_path / "cache")]
    told += ["--weights", str(weights), "--against", varied.root, "--json"]
    result = CliRunner().invoke(app, ["report", *told], catch_exceptions=False)
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert said["report"] == str(out) and said["bytes"] == out.stat().st_size
    assert said["samples"] == 2 and said["faults"] == []
    page = out.read_text()
    assert "configured share" in page and "Leakage" in page
    assert varied.root.rpartition("/")[2] in page
    assert not re.search(r"<script|\son\w+=|https?://(?!www\.w3\.org)", _without_texts(page))


def _without_texts(page: str) -> str:
    """Tags only."""
    return "".join(re.findall(r"<[^>]*>", page))
