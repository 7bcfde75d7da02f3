"""Where records go: `metrics.jsonl` always, TensorBoard and Weights & Biases if asked for.

with open_sinks(run, recipe.metrics, step) as sinks:   # on rank 0 only
    sinks.write(meter.record("train", step, {"lr": lr}))
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from omni_diffusion.errors import OmniError
from omni_diffusion.training.metrics_file import MetricsFile, cut_back
from omni_diffusion.training.metrics_recipe import MetricsRecipe, WandbRecipe


class Sink(Protocol):
    """Takes records."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Take one."""

    def close(self) -> None:
        """Nothing comes any more."""


class Sinks:
    """Several as one."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)

    def write(self, record: Mapping[str, Any]) -> None:
        """Give one record to all of them."""
        for sink in self._sinks:
            sink.write(record)


@contextmanager
def open_sinks(
    run: str | os.PathLike[str], recipe: MetricsRecipe, step: int = 0, *others: Sink
) -> Iterator[Sinks]:
    """Open what a recipe asks for; leaving closes all, the file last.

    Args:
        run: folder of the run, which exists.
        recipe: which sinks.
        step: steps done so far; what an earlier process wrote of later ones is taken away.
        others: further ones, such as the progress display.

    Raises:
        OmniError: a sink's package is not installed, or metrics.jsonl is damaged.
    """
    with ExitStack() as closing:
        cut_back(run, step)
        sinks: list[Sink] = []

        def keep(sink: Sink) -> None:
            closing.callback(sink.close)
            sinks.append(sink)

        keep(MetricsFile(run))
        if recipe.tensorboard:
            keep(TensorBoardSink(Path(run) / "tensorboard", step))
        if recipe.wandb:
            keep(WandbSink(Path(run), recipe.wandb, step))
        for sink in others:
            keep(sink)
        yield Sinks(sinks)


class TensorBoardSink:
    """Event files. Steps after the one resumed from are hidden (`purge_step`)."""

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise OmniError(_missing("metrics.tensorboard", "tensorboard")) from None
        purge = step + 1 if step else None
        self._writer: Any = SummaryWriter(str(folder), purge_step=purge)

    def write(self, record: Mapping[str, Any]) -> None:
        """Add every number of a record."""
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


class WandbSink:
    """One run at Weights & Biases, gone on with when training is resumed."""

    def __init__(self, run: Path, recipe: WandbRecipe, step: int) -> None:
        try:
            import wandb
        except ImportError:
            raise OmniError(_missing("metrics.wandb", "wandb")) from None
        name = run / "wandb-run.txt"
        resuming = step > 0 and name.exists()
        self._run: Any = wandb.init(
            project=recipe.project,
            name=recipe.name,
            dir=str(run),
            mode=recipe.mode,
            id=name.read_text().strip() if resuming else None,
            resume="allow" if resuming else None,
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        name.write_text(self._run.id + "\n")

    def write(self, record: Mapping[str, Any]) -> None:
        """Log every number of a record."""
        self._run.log({"step": record["step"]} | scalars(record))

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a record under names such as `train/loss_by/task/t2i`."""
    found: dict[str, float] = {}

    def take(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for part, entry in value.items():
                take(f"{name}/{part}", entry)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)

    for name, value in record.items():
        if name not in ("kind", "step"):
            take(f"{record['kind']}/{name}", value)
    return found


def _missing(key: str, extra: str) -> str:
    return f"{key}: not installed; run pip install 'omni-diffusion[{extra}]', or leave it out"
