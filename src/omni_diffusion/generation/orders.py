"""Which hidden tokens a step keeps: how many, and in which order."""

from __future__ import annotations

import torch
from torch import Tensor

_EPSILON = 1e-10


def schedule(steps: int, smallest_time: float) -> Tensor:
    """Times of the steps of a block, float32 [steps + 1], from 1 down."""
    return torch.linspace(1, smallest_time, steps + 1)


def steps_of_block(block_length: int, answer_length: int, steps: int) -> int:
    """Share of the steps that a block gets by its length, at least one.

    In float32, as in the published code: the rounding decides.
    """
    share = torch.tensor(block_length) / answer_length * steps
    return max(int(share), 1)


def kept_share(times: Tensor, step: int) -> Tensor:
    """Part of the hidden tokens that a step keeps, float32 scalar; the last step keeps all."""
    last = step == len(times) - 2
    return torch.tensor(1.0) if last else 1 - times[step + 1] / times[step]


def kept_count(hidden: int, times: Tensor, step: int) -> int:
    """How many of a block's hidden tokens a step keeps: at least one."""
    return max(int(hidden * kept_share(times, step)), 1)


def confidence(order: str, probabilities: Tensor, chosen: Tensor) -> Tensor:
    """How sure the model is of each token, float [n]; the higher, the earlier it is kept.

    Args:
        order: `confidence`, `margin` or `entropy`.
        probabilities: of the candidates, [n, k].
        chosen: column that was taken, int64 [n].
    """
    if order == "confidence":
        return probabilities.gather(1, chosen[:, None])[:, 0]
    if order == "margin":
        best = probabilities.topk(min(2, probabilities.shape[1])).values
        return best[:, 0] - (best[:, 1] if best.shape[1] == 2 else 0)
    return (probabilities * (probabilities + _EPSILON).log()).sum(1)


def surest(confidences: Tensor, count: int, temperature: float, uniform: Tensor | None) -> Tensor:
    """Which of one answer's tokens are kept, int64 [count].

    Args:
        confidences: float [n].
        count: how many.
        temperature: 0 takes the surest. Above, tokens are drawn without replacement with weights
            exp(confidence / temperature), by the Gumbel-top-k trick (arXiv 1903.06059).
        uniform: float [n] in 0..1, for the draw.
    """
    if temperature > 0 and uniform is not None:
        gumbel = -(-uniform.clamp_min(_EPSILON).log()).log()
        confidences = confidences / temperature + gumbel
    return confidences.topk(count).indices
