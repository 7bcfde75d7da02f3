"""The recipe of `omni-diffusion tokenize`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from omni_diffusion.pipelines.run_recipe import RunRecipe
from omni_diffusion.pipelines.sources import SourceRecipe
from omni_diffusion.recipe import Recipe


class TokenizersRecipe(Recipe):
    """Names of the tokenizers: on the hub, paths, or `demo`."""

    text: str = "Dream-org/Dream-v0-Instruct-7B"
    image: str = "showlab/magvitv2"
    speech: str = "zai-org/glm-4-voice-tokenizer"
    features: str | None = None
    #: Of the user's speech, e.g. `FunAudioLLM/SenseVoiceSmall`. Without it, the user's speech
    #: becomes codes like the assistant's.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    #: `auto` takes the GPU where the worker has one.


class PicturesRecipe(Recipe):
    """Length of a picture's side in pixels: each picture is encoded once, at its role's size."""

    question: Literal[256, 512] = 512
    #: In turns of the user and the system, as published.
    answer: Literal[256, 512] = 256
    #: In turns of the assistant: what the model draws.


class TokenizeRecipe(Recipe):
    """What becomes of which source."""

    source: SourceRecipe
    output: str
    #: Folder or URL of the corpus.
    tokenizers: TokenizersRecipe = TokenizersRecipe()
    pictures: PicturesRecipe = PicturesRecipe()
    cache: str | None = None
    #: Folder or URL where codes are kept by content, for all jobs and runs.
    batch: int = Field(default=32, ge=1)
    #: Records that are encoded together.
    decode_threads: int = Field(default=2, ge=1)
    #: Threads of a worker that decode pictures and sounds.
    run: RunRecipe = RunRecipe()

    def content(self) -> TokenizeRecipe:
        """Only what decides the bytes: where and how it runs does not."""
        defaults = {name: TokenizeRecipe.model_fields[name].default for name in _NOT_CONTENT}
        return self.model_copy(update={"output": ".", **defaults})


_NOT_CONTENT = ("cache", "decode_threads", "run")
