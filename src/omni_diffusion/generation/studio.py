"""Model, tokenizers and recipe together: from what is asked to pictures, sounds and texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omni_diffusion.backbone.dream import Dream
from omni_diffusion.errors import OmniError
from omni_diffusion.generation.ask import Ask
from omni_diffusion.generation.generation_recipe import GenerationRecipe
from omni_diffusion.generation.kit import Codes, Kit, Sound
from omni_diffusion.generation.layout import Prepared, prepare_ask
from omni_diffusion.generation.reply import Parts, read_answer
from omni_diffusion.generation.sampler import Answer, denoise_step, finish, prepare


@dataclass(frozen=True, kw_only=True, eq=False)
class Reply:
    """An answer in a user's terms.

    Attributes:
        prepared: what was asked and how.
        parts: text and codes.
        picture: what the codes show, or None.
        sound: what the codes say, or None.
        answer: ids and history, as the sampler gave them.
        forwards: passes through the model of the whole batch.
        seconds: time of the whole batch.
    """

    prepared: Prepared
    parts: Parts
    picture: Image.Image | None
    sound: Sound | None
    answer: Answer
    forwards: int
    seconds: float

    def facts(self) -> dict[str, Any]:
        """What is worth keeping of it beside the media, for JSON."""
        ask, sampler = self.prepared.ask, self.prepared.sampler
        return {
            "key": ask.key,
            "task": ask.task,
            "asked": ask.text or None,
            "seed": ask.seed,
            "text": self.parts.text or None,
            "picture_codes": _count(self.parts.picture),
            "picture_codes_missing": self.parts.filled,
            "speech_codes": _count(self.parts.speech),
            "ended": self.parts.ended,
            "prompt_tokens": self.prepared.prompt,
            "answer_tokens": len(self.answer.answer),
            "steps": self.answer.steps,
            "batch_forwards": self.forwards,
            "batch_seconds": round(self.seconds, 3),
            "sampler": sampler.model_dump(mode="json"),
        }


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A request that could not be answered.

    Attributes:
        key: of the request.
        reason: why.
    """

    key: str
    reason: str


class Studio:
    """See the module.

    Attributes:
        model: in evaluation mode.
        kit: its tokenizers.
        recipe: how each task is answered.
    """

    def __init__(self, model: Dream, kit: Kit, recipe: GenerationRecipe) -> None:
        self.model, self.kit, self.recipe = model, kit, recipe

    def prepare(self, ask: Ask) -> Prepared:
        """Lay out one request.

        Raises:
            OmniError: it cannot be answered.
        """
        return prepare_ask(ask, self.model, self.kit, self.recipe)

    def answer(
        self,
        asks: Sequence[Ask],
        *,
        batch: int = 8,
        keep_history: bool = False,
        decode: bool = True,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Iterator[Reply | Failed]:
        """Answer requests in their order, so many at a time.

        One that cannot be answered becomes a `Failed` and stops nothing.

        Args:
            asks: what to answer.
            batch: how many are denoised together. None comes out differently for it, up to
                rounding.
            keep_history: keep the ids after every step.
            decode: make pictures and sounds of the codes.
            on_step: called with tokens known and tokens of the batch after each step.
        """
        for at in range(0, len(asks), batch):
            group = asks[at : at + batch]
            laid = [self._prepared(ask) for ask in group]
            ready = [item for item in laid if isinstance(item, Prepared)]
            replies = iter(
                self.denoise(ready, keep_history=keep_history, decode=decode, on_step=on_step)
            )
            for item in laid:
                yield item if isinstance(item, Failed) else next(replies)

    def reply(self, prepared: Prepared, answer: Answer, forwards: int, seconds: float) -> Reply:
        """Decode an answer.

        Raises:
            OmniError: the tokenizers cannot be loaded.
        """
        return self._reply(prepared, answer, forwards, seconds, decode=True)

    def _prepared(self, ask: Ask) -> Prepared | Failed:
        try:
            return self.prepare(ask)
        except OmniError as error:
            return Failed(key=ask.key, reason=str(error))

    def denoise(
        self,
        ready: Sequence[Prepared],
        *,
        keep_history: bool = False,
        decode: bool = True,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[Reply]:
        """Answer one batch of requests that are laid out; see `answer`."""
        start = time.perf_counter()
        state = prepare(
            self.model.config,
            [p.request for p in ready],
            [p.sampler for p in ready],
            keep_history=keep_history,
        )
        total = sum(hidden_tokens(answer.ids, state.mask_id) for answer in state.answers)
        while not state.done:
            denoise_step(self.model, state)
            if on_step is not None:
                left = sum(hidden_tokens(answer.ids, state.mask_id) for answer in state.answers)
                on_step(total - left, total)
        seconds, forwards = time.perf_counter() - start, state.passes.forwards
        return [
            self._reply(prepared, answer, forwards, seconds, decode)
            for prepared, answer in zip(ready, finish(state), strict=True)
        ]

    def _reply(
        self, prepared: Prepared, answer: Answer, forwards: int, seconds: float, decode: bool
    ) -> Reply:
        parts = read_answer(answer.answer.numpy(), self.kit.text)
        return Reply(
            prepared=prepared,
            parts=parts,
            picture=self.kit.draw(parts.picture) if decode and parts.picture is not None else None,
            sound=self.kit.sound(parts.speech) if decode and parts.speech is not None else None,
            answer=answer,
            forwards=forwards,
            seconds=seconds,
        )


def _count(codes: Codes | None) -> int:
    return 0 if codes is None else len(codes)


def hidden_tokens(ids: Any, mask_id: int) -> int:
    """How many tokens are still hidden."""
    return int((ids == mask_id).sum())


def codes_so_far(ids: Codes, kit: Kit, mask_id: int) -> tuple[Codes, NDArray[np.bool_]]:
    """Codes of an unfinished picture and which of its places are still hidden.

    Args:
        ids: int64 [n], the answer as far as it has come, of a picture's layout.
        kit: with the vocabulary.
        mask_id: what hides a token.

    Returns:
        int32 [256], 0 where unknown, and bool [256].
    """
    vocabulary = kit.template.vocabulary
    place = np.asarray(ids)[1 : 1 + 256]
    known = place >= vocabulary.image_start
    codes = np.where(known, place - vocabulary.image_start, 0).astype(np.int32)
    return codes, ~known | (place == mask_id)
