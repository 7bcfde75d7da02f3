"""Penalties on scores: against repeating ids, and against writing the end of an answer first.

Full attention with confidence order tends to decode from both ends, so that long answers repeat
their beginning at their end. Two cures are known, which are not the same:

* `ramp`, of the published code: tokens are counted among those still hidden; from the hundredth on
  their scores are made flatter, the further the more, up to the strength (2.0 for pictures).
  It ends by itself when a hundred hidden tokens are left.
* `window`, of the paper: the scores of all tokens after the hundredth of the answer are scaled by
  the strength (0.5) "during the early stages".
"""

from __future__ import annotations

import torch
from torch import Tensor

FREE_TOKENS = 100
"""The first tokens, whose scores no position penalty touches."""


def penalise(scores: Tensor, factor: Tensor) -> Tensor:
    """Make scores less likely: divide those of 0 and more by the factor, multiply the others.

    (Not a scaling: the published code does it this way for both penalties.)
    """
    return torch.where(scores < 0, scores * factor, scores / factor)


def repetition_factors(seen: Tensor, owner: Tensor, ids: Tensor, strength: float) -> Tensor:
    """Factor of every candidate: the strength where its answer has the id already, else 1.

    Args:
        seen: bool [answers, vocabulary].
        owner: int64 [n], the answer of each row.
        ids: int64 [n, k], candidates.
        strength: above 1 against repetition.
    """
    return torch.where(seen[owner[:, None], ids], strength, 1.0)


def ramp_factors(rank: Tensor, count: Tensor, strength: float) -> Tensor:
    """Factor of every row by its place among the hidden tokens, float [n, 1].

    Args:
        rank: int64 [n], place of each row among the tokens that the step considers.
        count: int64 [n], how many those are.
        strength: of the last one.
    """
    along = (rank - FREE_TOKENS).float() / (count - FREE_TOKENS)
    return torch.where(rank >= FREE_TOKENS, along * (strength - 1) + 1, 1.0)[:, None]


def window_factors(place: Tensor, strength: float) -> Tensor:
    """What every row's scores are multiplied with by its place in the answer, float [n, 1]."""
    return torch.where(place >= FREE_TOKENS, strength, 1.0)[:, None]
