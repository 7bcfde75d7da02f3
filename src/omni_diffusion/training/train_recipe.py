"""A whole training recipe: what is learned from what, and how the run is carried out.

`model`, `data`, `masking` and `optim` decide the result; a run folder belongs to one of each.
`run` and `metrics` decide where and how it is computed, and may change from one start to the next.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from omni_diffusion.recipe import Recipe
from omni_diffusion.training.metrics_recipe import MetricsRecipe
from omni_diffusion.training.model_recipe import ModelRecipe, OptimRecipe
from omni_diffusion.training.recipe import DataRecipe, MaskingRecipe

Count = Annotated[int, Field(ge=1)]


class CheckpointRecipe(Recipe):
    """When the state of a run is saved, and how long it stays."""

    every: Count = 500
    #: Steps. The last step is always saved.
    keep: Count = 3
    #: The newest so many stay.
    keep_every: Count | None = None
    #: So does every checkpoint whose step this divides.


class GuardRecipe(Recipe):
    """When a run stops of its own accord; a loss or gradient that is not finite always does it."""

    spike: Annotated[float, Field(gt=1)] | None = 10.0
    #: Stop at a loss so many times the median of the last ones; null for never.
    window: Annotated[int, Field(ge=4)] = 32
    #: How many last ones; before there are so many nothing is a spike.


class RayTrainRecipe(Recipe):
    """The cluster, for `--launcher ray`."""

    address: str | None = None
    #: None starts a Ray of its own on this machine; `auto` joins the running one; or `ray://...`.
    workers: Count = 1
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1
    tries: Count = 3
    #: How often the workers are started; each time they go on from the last checkpoint.


class RunRecipe(Recipe):
    """How a run is carried out. None of it changes what is learned, but for rounding."""

    out: str | None = None
    #: Folder of the run; by default `runs/` and the recipe's name.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    rows_per_pass: Count = 1
    #: Rows that one process computes at once; a step's rows are accumulated.
    evaluate_every: Count | None = 500
    #: Steps between two passes over the evaluation stream; the first is before training.
    samples_every: Count | None = None
    #: Steps between two sets of generated samples.
    checkpoints: CheckpointRecipe = CheckpointRecipe()
    guard: GuardRecipe = GuardRecipe()
    ray: RayTrainRecipe = RayTrainRecipe()


class TrainRecipe(Recipe):
    """Everything that `omni-diffusion train` needs."""

    model: ModelRecipe
    data: DataRecipe
    masking: MaskingRecipe = MaskingRecipe()
    optim: OptimRecipe
    metrics: MetricsRecipe = MetricsRecipe()
    run: RunRecipe = RunRecipe()


_MAY_CHANGE: Final = re.compile(
    r"(run|metrics)\..*"
    r"|model\.(compile|activation_checkpointing)"
    r"|data\.(prefetch_steps|cache|cache\..*|sources\..*\.corpus)"
)
"""Keys that do not decide the result; the plan's digest knows a corpus better than its path."""


def differences(was: Any, now: Any) -> list[str]:
    """What of two effective recipes, as plain values, would give another result; in words."""
    before, after = _flat(was), _flat(now)
    return [
        f"{key} was {before.get(key, '(none)')!r} and is {after.get(key, '(none)')!r}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key) and not _MAY_CHANGE.fullmatch(key)
    ]


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {path: value}
    found: dict[str, Any] = {}
    for key, entry in value.items():
        found |= _flat(entry, f"{path}.{key}" if path else key)
    return found
