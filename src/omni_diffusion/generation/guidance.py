"""Classifier-free guidance (arXiv 2207.12598) for answers side by side with an unconditional twin.

The twin has another prompt and the same answer, token by token. Where the prompts differ in length,
the twin's tokens lie elsewhere in its row. `answer` alignment compares scores of the same token.
The published code compares scores at the same place of the row, so that every token is paired with
the scores of another one, and fills the shorter row with zero vectors, which it attends to; `row`
alignment repeats that.

Scores are linear in the hidden states, so the two are combined before the output layer, which then
runs once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omni_diffusion.backbone.dream import Inserts
from omni_diffusion.generation.request import Request, RequestError


def twin(request: Request, ids: Tensor, alignment: str, hidden_size: int) -> tuple[Tensor, Inserts]:
    """The unconditional row of a request in its present state.

    Args:
        request: what was asked, with an unconditional prompt.
        ids: int64 [L], prompt and answer as far as it has come.
        alignment: `answer` or `row`.
        hidden_size: of the model, for zero vectors.

    Returns:
        Ids, and the vectors that stand in place of some (none, with `answer`).

    Raises:
        RequestError: with `row`, the unconditional prompt is the longer one.
    """
    assert request.unconditional is not None
    row = torch.cat((request.unconditional, ids[request.answer_start :]))
    missing = len(ids) - len(row)
    if alignment == "answer":
        missing = 0
    elif missing < 0:
        raise RequestError(
            f"the unconditional prompt of {len(request.unconditional)} tokens is longer than the "
            f"prompt of {request.answer_start}: the published alignment has no place for it"
        )
    filler = torch.arange(len(row), len(row) + missing)
    row = torch.cat((row, torch.zeros(missing, dtype=torch.int64)))
    return row, Inserts(filler, torch.zeros(missing, hidden_size))


def twin_shift(request: Request, alignment: str) -> int:
    """How much further right in the twin's row the token lies that a token is compared with."""
    assert request.unconditional is not None
    return len(request.unconditional) - request.answer_start if alignment == "answer" else 0


def guide(conditional: Tensor, unconditional: Tensor, strength: float) -> Tensor:
    """Hidden states whose scores are the guided ones, [n, hidden size]."""
    guided = unconditional.float() + (strength + 1) * (conditional - unconditional).float()
    return guided.to(conditional.dtype)
