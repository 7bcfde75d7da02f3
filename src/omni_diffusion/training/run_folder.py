"""Whose folder a run's is, and how it is asked to stop."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

import yaml

from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import TrainingError
from omni_diffusion.recipe import RECIPE
from omni_diffusion.training.parallel import World
from omni_diffusion.training.train_recipe import TrainRecipe, differences

_SHOWN: Final = 6


def claim(run: Path, recipe: TrainRecipe, world: World) -> None:
    """Make the folder of a run, or make sure that it is one of this recipe.

    Raises:
        TrainingError: it belongs to another recipe; names what differs.
        StorageError: it cannot be written.
    """
    path = run / RECIPE
    if path.exists():
        found = differences(yaml.safe_load(path.read_text("utf-8")), recipe.model_dump(mode="json"))
        if found:
            more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise TrainingError(
                f"{run}: is the run of another recipe: {'; '.join(found[:_SHOWN])}{more}. Give "
                "another --out; to begin from its weights, set model.checkpoint to its model folder"
            )
    world.sums()  # nobody writes before all have looked
    if world.first:
        Storage(str(run)).publish_bytes(recipe.to_yaml().encode(), RECIPE, replace=True)


class StopSignals:
    """SIGTERM and Ctrl-C as a wish to stop at the end of the step. A context manager.

    A second Ctrl-C ends at once. Within a launcher that runs training on a thread of its own,
    signals are the launcher's.

    Attributes:
        came: name of the signal that came, None before.
    """

    def __init__(self) -> None:
        self.came: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self.came = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)
