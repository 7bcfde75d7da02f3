"""What a user says of seeing a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from omni_diffusion.recipe import Recipe

Count = Annotated[int, Field(ge=1)]


class WandbRecipe(Recipe):
    """A run at Weights & Biases. Needs the extra `wandb`, and a key of yours unless offline."""

    project: str = "omni-diffusion"
    name: str | None = None
    mode: Literal["online", "offline"] = "offline"
    #: Offline writes beside the run; `wandb sync` sends it later.


class MetricsRecipe(Recipe):
    """Where figures go besides `metrics.jsonl`."""

    every: Count = 1
    #: Steps that one record covers.
    tensorboard: bool = False
    #: Write event files to RUN/tensorboard. Needs the extra `tensorboard`.
    wandb: WandbRecipe | None = None
    peak_tflops: Annotated[float, Field(gt=0)] | None = None
    #: Dense peak of one device, for MFU; known GPUs need none.
