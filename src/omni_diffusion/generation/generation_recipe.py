"""What a user says of generation: for every task its length, its sampler and its opening."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from omni_diffusion.generation.lengths import LengthRule
from omni_diffusion.generation.sampler_recipe import PRESETS as SAMPLERS
from omni_diffusion.generation.sampler_recipe import SamplerRecipe
from omni_diffusion.recipe import Recipe

Share = Annotated[float, Field(gt=0, le=1)]


class TaskRecipe(Recipe):
    """How one task is answered."""

    length: LengthRule
    steps_share: Share | None = None
    #: Steps as a part of the answer's length; takes the place of `sampler.steps`.
    speech_at: Annotated[float, Field(ge=0, lt=1)] | None = None
    #: Where begin-of-speech is set in advance, as a part of the answer's length; None sets none.
    no_end_before: Annotated[float, Field(ge=0, le=1)] = 0.0
    #: Part of the content in which no end may stand (its first token is never one, with a given
    #: frame): half-trained models are surest of the end, and would say nothing at all.
    frame: Literal["given", "free"] = "given"
    #: Whether the tokens that are known anyway (begin and end of a picture, begin of speech) are
    #: given, or found by the model like all others, as in the published code.
    unconditional: Literal["hidden", "empty"] = "hidden"
    #: What guidance compares with: the prompt hidden token by token, which our training teaches
    #: (`data.prompt_dropout`), or a prompt without its content, as in the published code.
    sampler: SamplerRecipe = SamplerRecipe()

    def sampler_for(self, tokens: int) -> SamplerRecipe:
        """The sampler of an answer of so many tokens."""
        if self.steps_share is None:
            return self.sampler
        steps = max(1, round(self.steps_share * tokens))
        return self.sampler.model_copy(update={"steps": steps})


class GenerationRecipe(Recipe):
    """All tasks. A file that names a preset changes only what it says."""

    preset: Literal["default", "paper", "published-code"] = "default"
    question_pixels: Literal[256, 512] | None = None
    #: Side of the pictures in questions; by default 512, but 256 with the demo tokenizers, whose
    #: recipe (tokenize/demo.yaml) says so.
    caption_instruction: str = "Describe the image."
    #: What `caption` asks where the request has no text.
    t2i: TaskRecipe
    s2i: TaskRecipe
    tts: TaskRecipe
    asr: TaskRecipe
    caption: TaskRecipe
    vqa: TaskRecipe
    svqa: TaskRecipe
    sqa: TaskRecipe
    chat: TaskRecipe

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, value: Any) -> Any:
        """Put what was said over the preset that it names."""
        if not isinstance(value, Mapping):
            return value
        name = value.get("preset", "default")
        known = isinstance(name, str) and name in _TASKS  # if not, the field says so
        return _over(copy.deepcopy(_TASKS[name if known else "default"]), value)

    @classmethod
    def from_preset(cls, name: str = "default", **changes: Any) -> Self:
        """A preset with some keys changed.

        Raises:
            ValidationError: there is no such preset or key.
        """
        return cls.model_validate({"preset": name, **changes})

    def task(self, name: str) -> TaskRecipe:
        """Recipe of one task."""
        found: TaskRecipe = getattr(self, name)
        return found


TASKS: Final = ("t2i", "s2i", "tts", "asr", "caption", "vqa", "svqa", "sqa", "chat")
"""Names of the tasks, as the command line takes them."""


def _over(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` put over it, table by table."""
    for key, value in changes.items():
        inner = base.get(key)
        if isinstance(inner, dict) and isinstance(value, Mapping):
            base[key] = _over(inner, value)
        else:
            base[key] = value
    return base


_PICTURE = {"tokens": 256}
_SPOKEN = {"per_text_token": 3.5}
_WRITTEN = {"per_speech_code": 0.2}

_TEXT_SAMPLER = {"order": "confidence", "block_size": 16, "stop_at_end": True}
"""Left to right in short blocks: an answer may be shorter than its place, and the model has seen
few pads behind an end."""

_DEFAULT: dict[str, Any] = {
    "t2i": {"length": _PICTURE, "sampler": {"steps": 64}},
    "s2i": {"length": _PICTURE, "sampler": {"steps": 64}},
    "tts": {
        "length": _SPOKEN | {"least": 16},
        "steps_share": 0.5,
        "no_end_before": 0.4,
        "sampler": {"block_size": 32, "stop_at_end": True},
    },
    "asr": {"length": _WRITTEN | {"least": 24}, "steps_share": 1.0, "sampler": _TEXT_SAMPLER},
    "caption": {"length": {"tokens": 64}, "steps_share": 1.0, "sampler": _TEXT_SAMPLER},
    "vqa": {"length": {"tokens": 16}, "steps_share": 1.0, "sampler": _TEXT_SAMPLER},
    "svqa": {"length": {"tokens": 128}, "steps_share": 1.0, "speech_at": 0.25},
    "sqa": {"length": {"tokens": 128}, "steps_share": 1.0, "speech_at": 0.25},
    "chat": {"length": {"tokens": 256}, "steps_share": 1.0, "sampler": _TEXT_SAMPLER},
}


def _with_sampler(preset: str, tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Tasks whose samplers are a preset's, with each task's own settings over it."""
    values = SAMPLERS[preset].model_dump()
    return {
        name: {**task, "sampler": values | task.get("sampler", {})} for name, task in tasks.items()
    }


_PAPER = _with_sampler(
    "paper",
    {
        # Table 3: 256 steps for pictures, half the length for speech.
        "t2i": {"length": _PICTURE, "sampler": {"steps": 256}},
        "s2i": {"length": _PICTURE, "sampler": {"steps": 256}},
        "tts": {"length": _SPOKEN, "steps_share": 0.5},
        "asr": {"length": _WRITTEN, "steps_share": 0.5},
        "caption": {"length": {"tokens": 64}, "steps_share": 1.0},
        "vqa": {"length": {"tokens": 64}, "steps_share": 1.0},
        "svqa": {"length": {"tokens": 128}, "steps_share": 1.0, "speech_at": 0.25},
        "sqa": {"length": {"tokens": 128}, "steps_share": 1.0, "speech_at": 0.25},
        "chat": {"length": {"tokens": 128}, "steps_share": 1.0},
    },
)

_FREE = {"frame": "free", "unconditional": "empty"}
_DRAWN = {"steps": 260, "top_p": 0.9, "position_penalty": 2.0}
_SAID = {"steps": 128, "top_p": 0.9, "repetition_penalty": 1.2}
_PLAIN = {"top_p": 0.9}
_PUBLISHED_CODE = _with_sampler(
    "published-code",
    {
        # The arguments of its demonstration script. Its lengths hold begin, ends and newline too,
        # which here come on top of the content.
        "t2i": {"length": _PICTURE, **_FREE, "sampler": {**_DRAWN, "repetition_penalty": 1.2}},
        "s2i": {
            "length": _PICTURE,
            **_FREE,
            "sampler": {**_DRAWN, "repetition_penalty": 1.5, "guidance": 2.0},
        },
        "tts": {"length": {"tokens": 46}, "steps_share": 0.5, **_FREE, "sampler": _PLAIN},
        "asr": {"length": {"tokens": 48}, "steps_share": 0.5, **_FREE, "sampler": _PLAIN},
        "caption": {"length": {"tokens": 62}, "steps_share": 1.0, **_FREE, "sampler": _PLAIN},
        "vqa": {"length": {"tokens": 62}, "steps_share": 1.0, **_FREE, "sampler": _PLAIN},
        "svqa": {"length": {"tokens": 124}, **_FREE, "speech_at": 0.2, "sampler": _SAID},
        "sqa": {"length": {"tokens": 124}, **_FREE, "speech_at": 0.2, "sampler": _SAID},
        "chat": {"length": {"tokens": 126}, "steps_share": 1.0, **_FREE, "sampler": _PLAIN},
    },
)

_TASKS: Final = {"default": _DEFAULT, "paper": _PAPER, "published-code": _PUBLISHED_CODE}
