"""From scores to a choice: the ids that a token may become, cut to the likely ones.

The published code sorts the whole vocabulary for top-p, then cuts to top-k. The likeliest k ids and
the sum over all are enough for both, and that is all that is computed here: of 176,264 ids, 50.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Candidates(NamedTuple):
    """Ids that tokens may become.

    Attributes:
        scores: float32 [n, k]; minus infinity for those that are cut off.
        ids: int64 [n, k].
    """

    scores: Tensor
    ids: Tensor


def find_candidates(
    logits: Tensor, ids: Tensor, temperature: float, top_k: int | None, top_p: float
) -> Candidates:
    """Cut each row to its likeliest ids.

    Args:
        logits: float32 [n, m], scores.
        ids: int64 [m], what the columns stand for.
        temperature: divides the scores, unless it is 0.
        top_k: at most so many ids are kept.
        top_p: the fewest ids are kept whose probabilities sum to more than this.

    Returns:
        k is `top_k` where there are that many, else m.
    """
    if temperature > 0:
        logits = logits / temperature
    if top_k is None and top_p >= 1:
        return Candidates(logits, ids.expand_as(logits))
    k = min(top_k or logits.shape[1], logits.shape[1])
    scores, columns = logits.topk(k)
    if top_p < 1:
        probabilities = (scores - logits.logsumexp(1, keepdim=True)).exp()
        before = probabilities.cumsum(1)[:, :-1]
        # The first id stays, whatever its probability.
        scores[:, 1:] = scores[:, 1:].masked_fill(before > top_p, -torch.inf)
    return Candidates(scores, ids[columns])


def choose(probabilities: Tensor, uniform: Tensor | None) -> Tensor:
    """Column of each row that is taken, int64 [n]: the likeliest, or one that is drawn.

    Args:
        probabilities: float [n, k].
        uniform: float [n] in 0..1, one draw a row; None takes the likeliest.
    """
    if uniform is None:
        return probabilities.argmax(1)
    cumulated = probabilities.cumsum(1)
    reached = cumulated > uniform[:, None] * cumulated[:, -1:]
    # argmax finds the first True. Columns of probability 0 are never the first to reach anything.
    return reached.int().argmax(1)
