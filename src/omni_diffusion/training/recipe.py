"""What a user says of training data and noise. Shares and sizes are checked where data is known."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from omni_diffusion.recipe import Recipe

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,60}$")]


class SourceWeight(Recipe):
    """One corpus of the mixture."""

    corpus: str
    #: Folder or URL of a finished token corpus.
    weight: Annotated[float, Field(ge=0)] = 1.0
    #: Its part of the supervised tokens, relative to the other weights; 0 leaves it out.


class CacheRecipe(Recipe):
    """Where shards of remote corpora are kept."""

    folder: str
    limit_mb: Count
    #: The copies together; at least two shuffle groups of every source are best (`shuffle_shards`).


class EvaluationRecipe(Recipe):
    """The fixed stream that is never trained on: the same samples, rows and noise every time."""

    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    #: Part of every source that is kept from training. Samples of equal tokens stay together.
    samples: Count = 256
    #: At most so many of each source.
    corpora: dict[Name, str] = Field(default_factory=dict)
    #: Further corpora that are used for evaluation only.


class DataRecipe(Recipe):
    """What is read, in which proportion, and how it is laid into rows."""

    sources: dict[Name, SourceWeight] = Field(min_length=1)
    tokenizer: str
    #: Text tokenizer of the corpora: `demo`, a folder, or a name on the hub.
    seed: int = 0
    #: Of shuffle, packing and noise.
    row_length: Annotated[int, Field(ge=16, le=65_535)] = 3072
    #: Positions of a row; several samples share one.
    rows_per_step: Count = 128
    #: Rows of one optimizer step, all ranks and accumulation together.
    window_rows: Count = 4096
    #: Rows that are packed together. More fills better and costs more memory and latency.
    shuffle_shards: Count = 8
    #: Shards of a source whose rows are shuffled together, and so are open at the same time.
    tail_pads: Annotated[int, Field(ge=0, le=256)] = 16
    #: A sample ends with 1 to so many end-of-text ids (the published code: 16); 0 for none.
    prompt_dropout: Share = 0.0
    #: Part of the samples whose prompt is hidden, so that guidance has something to compare with.
    too_long: Literal["stop", "skip"] = "stop"
    #: What to do with samples that do not fit into a row.
    damaged: Literal["stop", "skip"] = "stop"
    #: What to do with a sample whose bytes are damaged.
    cache: CacheRecipe | None = None
    prefetch_steps: Count = 2
    #: Batches that are made ahead of the one in use.
    evaluation: EvaluationRecipe = EvaluationRecipe()


_WEIGHTINGS = {"low-variance": "inverse", "paper": "none", "published-code": "none"}


class MaskingRecipe(Recipe):
    """Which tokens are hidden, and how much each counts."""

    preset: Literal["low-variance", "paper", "published-code"] = "low-variance"
    #: See `masking.py`.
    weighting: Literal["none", "inverse"] | None = None
    #: `inverse` divides by the mask ratio: the evidence bound. By default only low-variance does,
    #: whose gradient bears it; the paper and the published code do not.
    tail_pad_ratio: Share = 0.6
    #: Gamma of the paper: tail pads are masked at this part of the sample's ratio.
    task_scales: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    #: Factor on the loss of a task, 1 where it is not named.

    @property
    def inverse(self) -> bool:
        """Whether the loss of a hidden token is divided by the mask ratio."""
        return (self.weighting or _WEIGHTINGS[self.preset]) == "inverse"


class PlanRecipe(Recipe):
    """The parts of a training recipe that decide what is read and hidden.

    The other parts (model, optimizer ...) are not looked at: a plan needs none of them.
    """

    model_config = ConfigDict(extra="ignore")

    data: DataRecipe
    masking: MaskingRecipe = MaskingRecipe()
