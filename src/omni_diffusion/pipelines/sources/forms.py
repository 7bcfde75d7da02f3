"""What each task takes from a row: which columns become the question, the answer, the media."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from omni_diffusion.corpus.record import AUDIO, IMAGE

Task = Literal["asr", "tts", "t2i", "caption", "vqa", "s2i", "sqa", "svqa", "text"]
"""The tasks that `tokenize.prompts.task_messages` can word."""

PROMPT = "prompt"
"""Stands for one of the recipe's instructions instead of a column."""

ANSWER_AUDIO = "answer_audio"
"""The spoken answer: the only column that a form can do without."""


@dataclass(frozen=True, slots=True)
class Form:
    """One task.

    Attributes:
        asks: the column whose text the user's turn holds, `PROMPT`, or nothing.
        answers: the column whose text is the answer, or the placeholder of a medium.
        media: columns with media, in the order in which their placeholders stand.
    """

    asks: str
    answers: str
    media: tuple[str, ...]

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a recipe must name."""
        texts = {self.asks, self.answers} - {"", PROMPT, AUDIO, IMAGE}
        return (*sorted(texts), *(name for name in self.media if name != ANSWER_AUDIO))


FORMS: Final[Mapping[str, Form]] = {
    "asr": Form("", "text", ("audio",)),
    "tts": Form("text", AUDIO, ("audio",)),
    "t2i": Form("text", IMAGE, ("image",)),
    "caption": Form(PROMPT, "text", ("image",)),
    "vqa": Form("question", "answer", ("image",)),
    "s2i": Form("", IMAGE, ("audio", "image")),
    "sqa": Form("", "answer", ("audio", ANSWER_AUDIO)),
    "svqa": Form("", "answer", ("audio", "image", ANSWER_AUDIO)),
    "text": Form("question", "answer", ()),
}
"""Task to form. A spoken answer follows its text in the published data: `TEXT\\n<|audio|>`."""
