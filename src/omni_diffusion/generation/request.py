"""What is asked of the sampler: a row of ids, some of them hidden.

Everything that is not hidden is given and never changes: the prompt, a token set in advance, the
known part of a picture (in-painting is nothing else).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Inserts
from omni_diffusion.errors import OmniError


class RequestError(OmniError):
    """A request cannot be answered: too long, out of the vocabulary, or incomplete."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One answer to generate.

    Attributes:
        ids: int64 [L], prompt and answer; the mask id where the answer is to be generated.
        answer_start: where the answer begins.
        allowed: int64 [L, r, 2], for every place up to r ranges of ids that it may hold, each as
            its first id and the one after its last; empty ranges fill up. None allows all.
        inserts: vectors in place of some of the prompt's embeddings (continuous speech).
        unconditional: int64 [U], the prompt that guidance compares with.
        ends: ids that end an answer, see `SamplerRecipe.stop_at_end`.
        seed: of every draw; the same request gives the same answer in any batch.
    """

    ids: Tensor
    answer_start: int
    allowed: Tensor | None = None
    inserts: Inserts | None = None
    unconditional: Tensor | None = None
    ends: tuple[int, ...] = ()
    seed: int = 0

    @classmethod
    def blank(
        cls, prompt: Sequence[int] | Tensor, new_tokens: int, mask_id: int, *, seed: int = 0
    ) -> Request:
        """A prompt with an answer of which nothing is known.

        Raises:
            RequestError: nothing is to be generated.
        """
        if new_tokens < 1:
            raise RequestError(f"{new_tokens} new tokens: nothing to generate")
        given = torch.as_tensor(prompt, dtype=torch.int64)
        ids = torch.cat((given, torch.full((new_tokens,), mask_id)))
        return cls(ids=ids, answer_start=len(given), seed=seed)

    def check(self, config: DreamConfig, guided: bool) -> None:
        """Refuse what the model cannot answer.

        Raises:
            RequestError: says what is wrong.
        """
        length, masked = len(self.ids), self.ids == config.mask_token_id
        if length > config.max_position_embeddings:
            raise RequestError(
                f"{self.answer_start} tokens of prompt and {length - self.answer_start} of answer "
                f"are more than the {config.max_position_embeddings} that the model allows"
            )
        if not 0 <= self.answer_start < length:
            raise RequestError(f"the answer begins at {self.answer_start} of {length} tokens")
        for name, ids in (("request", self.ids), ("unconditional prompt", self.unconditional)):
            if ids is None:
                continue
            if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < config.vocab_size:
                raise RequestError(f"the {name} has ids that are not below {config.vocab_size}")
        if masked[: self.answer_start].any():
            raise RequestError("the prompt has hidden tokens; they belong into the answer")
        if self.allowed is not None:
            low, high = self.allowed.unbind(-1)
            if len(low) != length or (low < 0).any() or (high > config.vocab_size).any():
                raise RequestError("allowed ids must be given for every place, in the vocabulary")
            if (low >= high).all(1)[masked].any():
                raise RequestError("a hidden place has no allowed id")
        if guided and self.unconditional is None:
            raise RequestError("guidance needs an unconditional prompt to compare with")
