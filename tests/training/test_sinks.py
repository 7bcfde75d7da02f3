"""Records reach TensorBoard, Weights & Biases, the terminal and plain lines, and resume there."""

import io
import json
import sys

import pytest

from omni_diffusion.errors import OmniError
from omni_diffusion.training.display import Display, duration, figures
from omni_diffusion.training.metrics_file import read_metrics
from omni_diffusion.training.metrics_recipe import MetricsRecipe, WandbRecipe
from omni_diffusion.training.sinks import WandbSink, open_sinks, scalars


def record(step: int, kind: str = "train", **changes) -> dict:
    values = {
        "kind": kind,
        "step": step,
        "loss": 1.0 / step,
        "cross_entropy": None,
        "loss_by": {"task": {"t2i": 2.0, "asr": 3.0}, "modality": {}, "t": {"0.0-0.1": 0.5}},
        "tokens": {"useful": 900, "positions": 1000},
        "fill": 0.95,
        "left_out": 0,
        "data_wait_s": 0.02,
        "seconds": 0.1,
        "useful_tokens_per_s": 9000.0,
        "memory_mb": 1234.0,
        "mfu": None,
    }
    return values | changes


def test_every_number_has_a_name() -> None:
    found = scalars(record(2))
    assert found["train/loss"] == 0.5
    assert found["train/loss_by/task/t2i"] == 2.0
    assert "train/mfu" not in found and "train/step" not in found


def tensorboard_points(folder, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, round(event.value, 6)) for event in events.Scalars(tag)]


def test_tensorboard_reads_a_run_and_its_resumption(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    recipe = MetricsRecipe(tensorboard=True)
    with open_sinks(tmp_path, recipe) as sinks:
        for step in range(1, 5):
            sinks.write(record(step))
    with open_sinks(tmp_path, recipe, 2) as sinks:
        sinks.write(record(3, loss=9.0))
        sinks.write(record(3, "eval"))
    points = tensorboard_points(tmp_path / "tensorboard", "train/loss")
    assert points == [(1, 1.0), (2, 0.5), (3, 9.0)]
    assert tensorboard_points(tmp_path / "tensorboard", "eval/loss_by/t/0.0-0.1") == [(3, 0.5)]
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3, 3]


@pytest.mark.slow
def test_weights_and_biases_keeps_a_run_offline_and_goes_on_with_it(tmp_path) -> None:
    """The package starts a process of its own and takes seconds."""
    wandb = pytest.importorskip("wandb")
    recipe = WandbRecipe(mode="offline")
    for step in (0, 1):
        sink = WandbSink(tmp_path, recipe, step)
        sink.write(record(step + 1))
        sink.close()
    wandb.teardown()  # its process has written everything
    name = (tmp_path / "wandb-run.txt").read_text().strip()
    files = list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2 and all(file.stem == f"run-{name}" for file in files)
    assert all(b"train/loss_by/task/t2i" in file.read_bytes() for file in files)


@pytest.mark.parametrize(
    ("module", "recipe", "extra"),
    [
        ("torch.utils.tensorboard", MetricsRecipe(tensorboard=True), "tensorboard"),
        ("wandb", MetricsRecipe(wandb=WandbRecipe()), "wandb"),
    ],
)
def test_a_sink_that_is_not_installed_is_named(
    tmp_path, monkeypatch, module, recipe, extra
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with (
        pytest.raises(OmniError, match=rf"omni-diffusion\[{extra}\]"),
        open_sinks(tmp_path, recipe),
    ):
        pass


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_say_what_a_person_watches() -> None:
    stream = io.StringIO()
    display = Display(3, stream=stream, every_s=3600)
    display.write(record(1))
    display.write(record(2))
    display.write(record(2, "eval"))
    display.write(record(3, left_out=2, mfu=0.345))
    display.close()
    first, held_out, last = stream.getvalue().splitlines()
    assert first.startswith("step 1 of 3: loss 1, 9,000 tokens/s, fill 95%, data wait 20%, 1.2 GB")
    assert first.endswith("to go")
    assert held_out == "step 2: held-out loss 0.5 (asr 3, t2i 2)"
    assert last.endswith("MFU 34%, 2 samples left out")


def test_a_terminal_gets_a_bar(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    stream = Terminal()
    display = Display(4, 1, stream=stream)
    display.write(record(2))
    display.write(record(2, "eval"))
    display.close()
    shown = stream.getvalue()
    assert "2/4" in shown and "9,000 tokens/s" in shown and "held-out loss 0.5" in shown


def test_durations_and_losses_read_well() -> None:
    assert [duration(s) for s in (42, 400, 12_000)] == ["42 s", "7 min", "3 h 20 min"]
    assert figures(record(1, loss=None)).startswith("loss none")
    json.dumps(record(1))
