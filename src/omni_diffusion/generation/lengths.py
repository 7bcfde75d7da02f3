"""How long an answer is to be: a masked model must be told before it begins.

The paper takes 3.5 speech codes for each text token to be spoken, and 0.2 text tokens for each
speech code to be written down; a picture has 256 codes. (The published code counts the whole
prompt instead of the speech when it transcribes.) What is counted here is content only; begin, end
and end of turn come on top.
"""

from __future__ import annotations

import math
from typing import Annotated, Self

from pydantic import Field, model_validator

from omni_diffusion.recipe import Recipe

Count = Annotated[int, Field(ge=0)]
Factor = Annotated[float, Field(ge=0)]


class LengthRule(Recipe):
    """Tokens of content = tokens + per_text_token x text + per_speech_code x speech, in bounds."""

    tokens: Count = 0
    per_text_token: Factor = 0.0
    #: For each token of the user's text (the instruction is not counted).
    per_speech_code: Factor = 0.0
    #: For each 80 ms of the user's speech.
    least: Annotated[int, Field(ge=1)] = 1
    most: Annotated[int, Field(ge=1)] = 2048

    @model_validator(mode="after")
    def _gives_a_length(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least {self.least} is more than most {self.most}")
        if not (self.tokens or self.per_text_token or self.per_speech_code):
            raise ValueError("one of tokens, per_text_token and per_speech_code must be given")
        return self

    def length(self, text_tokens: int, speech_codes: int) -> int:
        """Tokens of content, rounded up.

        Args:
            text_tokens: of the user's text.
            speech_codes: of the user's speech, at 12.5 a second.
        """
        wanted = self.per_text_token * text_tokens + self.per_speech_code * speech_codes
        return min(max(self.tokens + math.ceil(round(wanted, 6)), self.least), self.most)
