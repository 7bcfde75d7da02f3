"""How an answer is denoised: everything that a user may choose, and two ready choices."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from omni_diffusion.errors import RecipeError
from omni_diffusion.recipe import Recipe

Count = Annotated[int, Field(ge=1)]
Factor = Annotated[float, Field(gt=0)]
Level = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class SamplerRecipe(Recipe):
    """Settings of the sampler; the defaults are ours."""

    steps: Count = 256
    #: Forward passes for an answer, at most one for each hidden token.
    block_size: Count | None = None
    #: Tokens that are denoised before the next ones begin, left to right; all at once by default.
    order: Literal["random", "confidence", "margin", "entropy"] = "entropy"
    #: Which tokens are kept first: drawn; those with the likeliest first choice, the largest
    #: distance between first and second, or the least entropy.
    order_temperature: Level = 0.0
    #: Noise on that order: tokens are drawn with weights exp(confidence / temperature).
    threshold: Share | None = None
    #: In addition to those that a step has to keep, keep every token whose chosen id has at least
    #: this probability: fewer passes where the model is sure.
    temperature: Level = 0.0
    #: Of the ids: 0 takes the likeliest.
    top_k: Count | None = 50
    top_p: Share = 1.0
    repetition_penalty: Factor = 1.0
    #: Divides positive scores (multiplies negative ones) of ids that the answer already has.
    position_penalty: Factor = 1.0
    position_penalty_kind: Literal["ramp", "window"] = "ramp"
    #: `ramp` as in the published code, `window` as in the paper: see `penalties.py`.
    position_penalty_until: Share = 1.0
    #: Part of the steps in which `window` is in force.
    guidance: Level = 0.0
    #: Scores = unconditional + (guidance + 1) (conditional - unconditional); 0 is none.
    guidance_alignment: Literal["answer", "row"] = "answer"
    #: `answer` compares scores of the same token; `row` those at the same place of the row, as
    #: the published code does: see `guidance.py`.
    restrict_vocabulary: bool = True
    #: Allow only ids that a place may hold, where the request says so.
    allow_mask: bool = False
    #: Let the model choose the mask id, as the published code does; such a place stays hidden.
    random_across_blocks: bool = False
    #: In random order, draw from all of the answer whatever the block, as the published code does.
    stop_at_end: bool = False
    #: Do not denoise what follows the end of an answer: once everything up to an end of turn is
    #: known, the rest is filled with end-of-text.
    cache_refresh: Count | None = None
    #: Compute only the open block, and everything else at the latest every so many passes: faster
    #: and approximate (see `forward.py`). None computes everything every time.
    smallest_time: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    #: Time of the last step; the first is 1.

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.order == "random" and (self.threshold is not None or self.order_temperature):
            raise ValueError("random order has no confidence for a threshold or temperature")
        published = self.random_across_blocks or self.guidance_alignment == "row"
        if self.cache_refresh is not None and published:
            raise ValueError("a cache needs blocks and aligned guidance, not the published code's")
        return self


PRESETS: Final = {
    "default": SamplerRecipe(),
    "paper": SamplerRecipe(
        position_penalty=0.5,
        position_penalty_kind="window",
        # "During the early stages", says the paper; the number is ours.
        position_penalty_until=0.5,
    ),
    "published-code": SamplerRecipe(
        guidance_alignment="row",
        restrict_vocabulary=False,
        allow_mask=True,
        random_across_blocks=True,
    ),
}
"""`paper` as its text says, `published-code` as the released sampler computes, defaults included
(of which top_k = 50 comes from its library and is written down nowhere)."""


def preset(name: str, **changes: object) -> SamplerRecipe:
    """A ready choice with some settings changed.

    Raises:
        RecipeError: there is no such preset.
        ValidationError: a setting does not exist or has a wrong value (a mistake in code).
    """
    if name not in PRESETS:
        raise RecipeError(f"preset {name!r} is none of {', '.join(PRESETS)}")
    return SamplerRecipe.model_validate(PRESETS[name].model_dump() | changes)
