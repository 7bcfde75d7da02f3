"""What each considered token becomes, and how sure that is: output layer, penalties, choice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from omni_diffusion.backbone.dream import Dream
from omni_diffusion.generation import orders, penalties
from omni_diffusion.generation.candidates import Candidates, choose, find_candidates
from omni_diffusion.generation.sampler_recipe import SamplerRecipe

CHUNK_ROWS = 256
"""Tokens whose scores exist at the same time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The n tokens that a step considers, of b answers.

    Attributes:
        owner: int64 [n], the answer of each.
        allowed: int64 [n, r, 2], ranges of ids that each may become (see `Request`).
        rank: int64 [n], its place among the tokens that the ramp counts.
        count: int64 [n], how many those are.
        place: int64 [n], its place in the answer.
        elapsed: float [b], part of its steps that each answer has behind it.
        uniform: float [n], a draw for each, or None where the likeliest id is taken.
        seen: bool [b, vocabulary], ids that each answer has; without rows where nobody asks.
        forbidden: an id that no token may become, or None.
    """

    owner: Tensor
    allowed: Tensor
    rank: Tensor
    count: Tensor
    place: Tensor
    elapsed: Tensor
    uniform: Tensor | None
    seen: Tensor
    forbidden: int | None

    def to(self, device: torch.device) -> Rows:
        """The same on a device."""
        tensors: dict[str, Any] = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **tensors)

    def part(self, index: Tensor) -> Rows:
        """Some of the tokens, all of the answers."""
        return replace(
            self,
            owner=self.owner[index],
            allowed=self.allowed[index],
            rank=self.rank[index],
            count=self.count[index],
            place=self.place[index],
            uniform=None if self.uniform is None else self.uniform[index],
        )


class Decision(NamedTuple):
    """What the n tokens become.

    Attributes:
        ids: int64 [n].
        confidence: float32 [n], by the recipe's order.
        probability: float32 [n], of the chosen id.
    """

    ids: Tensor
    confidence: Tensor
    probability: Tensor


def decide(model: Dream, hidden: Tensor, rows: Rows, recipe: SamplerRecipe) -> Decision:
    """Score tokens and choose an id for each.

    Tokens that may become the same ids go through the output layer together, and through no more
    of it than those ids' part.

    Args:
        model: has the output layer.
        hidden: [n, hidden size], the states that predict the tokens.
        rows: what else is known of them.
        recipe: how to choose.
    """
    ids = torch.empty(len(hidden), dtype=torch.int64, device=hidden.device)
    confidence, probability = torch.empty(2, len(hidden), device=hidden.device)
    kinds, group = torch.unique(rows.allowed, dim=0, return_inverse=True)
    for number, ranges in enumerate(kinds.tolist()):
        ranges = [(low, high) for low, high in ranges if low < high]
        columns = torch.cat([torch.arange(*pair, device=hidden.device) for pair in ranges])
        members = torch.nonzero(group == number)[:, 0]
        for index in torch.split(members, CHUNK_ROWS):
            parts = [model.logits(hidden[index], low, high) for low, high in ranges]
            logits = (torch.cat(parts, 1) if len(parts) > 1 else parts[0]).float()
            if rows.forbidden is not None:
                logits.masked_fill_(columns == rows.forbidden, -torch.inf)
            found = find_candidates(logits, columns, recipe.temperature, recipe.top_k, recipe.top_p)
            part = rows.part(index)
            probabilities = penalised(found, part, recipe).softmax(1)
            chosen = choose(probabilities, part.uniform)
            ids[index] = found.ids.gather(1, chosen[:, None])[:, 0]
            confidence[index] = orders.confidence(recipe.order, probabilities, chosen)
            probability[index] = probabilities.gather(1, chosen[:, None])[:, 0]
    return Decision(ids, confidence, probability)


def penalised(candidates: Candidates, rows: Rows, recipe: SamplerRecipe) -> Tensor:
    """Scores of the candidates after all penalties, [n, k]."""
    scores = candidates.scores
    if recipe.repetition_penalty != 1:
        scores = penalties.penalise(
            scores,
            penalties.repetition_factors(
                rows.seen, rows.owner, candidates.ids, recipe.repetition_penalty
            ),
        )
    if recipe.position_penalty == 1:
        return scores
    if recipe.position_penalty_kind == "ramp":
        factors = penalties.ramp_factors(rows.rank, rows.count, recipe.position_penalty)
        return penalties.penalise(scores, factors)
    early = rows.elapsed[rows.owner] < recipe.position_penalty_until
    factors = penalties.window_factors(rows.place, recipe.position_penalty)
    return torch.where(early[:, None], scores * factors, scores)
