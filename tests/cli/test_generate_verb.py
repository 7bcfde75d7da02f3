"""`generate` from the command line: every kind of answer becomes a file that opens."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from test_corpus_verbs import omni
from typer.testing import CliRunner

from checkpoints import demo_checkpoint
from omni_diffusion.cli import app
from omni_diffusion.cli.generation_options import StudioOptions, Task
from omni_diffusion.errors import OmniError
from omni_diffusion.generation.generation_recipe import TASKS, GenerationRecipe


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks on a busy machine: a second thread mostly waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A checkpoint, a picture, a recording, a mask and a file of requests."""
    folder = tmp_path_factory.mktemp("generate")
    demo_checkpoint(folder / "model")
    levels = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    Image.fromarray(levels).save(folder / "slope.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[32:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    soundfile.write(folder / "tone.wav", 0.2 * np.sin(np.arange(16_000) / 5), 16_000)
    asks = [
        {"key": "drawn", "task": "t2i", "text": "a ball"},
        {"key": "mended", "task": "t2i", "text": "a", "image": "slope.png", "inpaint": "mask.png"},
        {"key": "said", "task": "tts", "text": "a ball"},
        {"key": "heard", "task": "asr", "audio": "tone.wav"},
        {"key": "asked", "task": "svqa", "audio": "tone.wav", "image": "slope.png"},
        {"key": "lost", "task": "caption", "image": "none.png"},
        {"key": "wrong", "task": "sing"},
    ]
    (folder / "asks.jsonl").write_text("\n".join(map(json.dumps, asks)))
    return folder


def test_a_file_of_requests_becomes_files(place: Path, tmp_path: Path) -> None:
    options = ["-o", str(tmp_path), "--trace", "--json", "t2i.sampler.steps=3"]
    asked = ["--requests", str(place / "asks.jsonl")]
    done = omni("generate", str(place / "model"), *asked, *options, code=1)
    rows = {row["key"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert set(rows) == {"drawn", "mended", "said", "heard", "asked", "lost", "wrong"}
    assert "none.png: cannot be read" in rows["lost"]["error"]
    assert "'sing' is none of t2i" in rows["wrong"]["error"]
    assert "2 of 7 requests were not answered" in done.stderr
    kept = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {row["key"]: row for row in kept} == rows
    with Image.open(tmp_path / "drawn.png") as picture:
        assert picture.size == (256, 256)
    with Image.open(tmp_path / "drawn.trace.gif") as animation:
        assert animation.n_frames == 3
    samples, rate = soundfile.read(tmp_path / "said.wav")
    assert len(samples) / rate == pytest.approx(0.08 * rows["said"]["speech_codes"], abs=0.05)
    assert (tmp_path / "heard.txt").read_text().strip() == rows["heard"]["text"]
    about = json.loads((tmp_path / "mended.json").read_text())
    assert about["tokenizers"]["trained_with"]["image"].startswith("magvit2-demo-")
    history = np.load(tmp_path / "mended.history.npz")
    start = int(history["answer_start"])
    # The upper half was given: it is the same after every step.
    upper = history["ids"][:, start + 1 : start + 129]
    assert len(upper) == 3 and (upper == upper[0]).all()


def test_the_same_seed_gives_the_same_files(place: Path, tmp_path: Path) -> None:
    ask = [str(place / "model"), "--task", "t2i", "--text", "a ball"]
    hot = ["t2i.sampler.temperature=1.0", "t2i.sampler.steps=2", "--samples", "2"]
    for name in ("one", "two"):
        done = CliRunner().invoke(app, ["generate", *ask, *hot, "-o", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
    one, two = (
        [(tmp_path / name / f"t2i-00{i}.png").read_bytes() for i in (0, 1)]
        for name in ("one", "two")
    )
    assert one == two and one[0] != one[1]


def test_the_options_name_every_task_and_preset_there_is() -> None:
    presets = get_args(get_type_hints(StudioOptions)["preset"])[0]
    assert get_args(Task) == TASKS
    assert presets == GenerationRecipe.model_fields["preset"].annotation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no --task: one of t2i"),
        (["--task", "t2i"], "t2i needs text, which is missing"),
        (["--task", "t2i", "-t", "x", "t2i.sampler.stepz=3"], "did you mean 'steps'"),
        (["--requests", "asks.jsonl", "-t", "x"], "leave the other inputs out"),
        (["--requests", "asks.jsonl", "--steps", "3"], "leave the other inputs out"),
        (["--requests", "asks.jsonl", "--samples", "2"], "leave the other inputs out"),
        (["--task", "chat", "--text-file", "none.txt"], "none.txt: cannot be read"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_loaded(options, message) -> None:
    done = CliRunner().invoke(app, ["generate", "no-checkpoint", *options])
    assert isinstance(done.exception, OmniError)
    assert message in str(done.exception)
