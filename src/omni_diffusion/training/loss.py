"""The masked-diffusion loss: cross-entropy where a token is hidden, and nowhere else.

Only the output rows that predict a hidden token go through the output layer, a few at a time: of
a row of 3,072 tokens and 176,264 ids, full logits in float32 are 2.2 GB and those of 256 rows
180 MB. The gradient of a chunk is computed with its loss, so no logits outlive their chunk.

Losses are sums over one denominator that the caller gives. With the number of targets of a whole
step, over all processes and accumulated batches, every target counts the same wherever it lies.
(A mean of means does not do that.) The published loss is the mean over a batch: denominator = its
targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from omni_diffusion.backbone.attention import Segments
from omni_diffusion.backbone.dream import shifted_rows
from omni_diffusion.errors import OmniError

IGNORED = -100
"""Label of a token that is not to be predicted."""
CHUNK_ROWS = 256
"""Rows that go through the output layer at once."""


class Targets(NamedTuple):
    """What is to be predicted in a packed row.

    Attributes:
        positions: the hidden tokens, int64 [N].
        rows: for each, the output row that predicts it, int64 [N].
        ids: for each, the id that it hides, int64 [N].
    """

    positions: Tensor
    rows: Tensor
    ids: Tensor


def find_targets(labels: Tensor, segments: Segments) -> Targets:
    """Targets of a packed row.

    A label on the first token of a sample is never scored: no row of the same sample predicts it.
    (In a packed row the published code scores it with the last row of the sample before.)

    Args:
        labels: int64 [T]: the id where it is to be predicted, `IGNORED` elsewhere.
        segments: where the samples lie.
    """
    scored = labels != IGNORED
    scored[segments.starts] = False
    positions = torch.nonzero(scored)[:, 0]
    return Targets(positions, shifted_rows(segments)[positions], labels[positions])


class HeadLoss(NamedTuple):
    """Result of `head_loss`.

    Attributes:
        loss: the weighted sum of losses over the denominator, a scalar to differentiate.
        per_target: cross-entropy of every target in nats, unweighted, float32 [N], detached.
    """

    loss: Tensor
    per_target: Tensor


def head_loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    denominator: float | Tensor,
    weights: Tensor | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> HeadLoss:
    """Cross-entropy of rows of hidden states under the output layer.

    Args:
        hidden: [N, hidden size], one row a target.
        head: weight of the output layer, [vocabulary, hidden size].
        targets: ids, int64 [N].
        denominator: what the sum is divided by: a number, or a scalar tensor without gradient.
        weights: factor of each target, float [N], such as 1 / mask ratio or that of its task;
            1 by default, as in the published loss.
        chunk_rows: rows whose logits exist at the same time.

    Raises:
        OmniError: the numbers of rows, targets and weights differ.
    """
    if len(hidden) != len(targets) or (weights is not None and len(weights) != len(targets)):
        raise OmniError(
            f"{len(hidden)} hidden rows, {len(targets)} targets and "
            f"{'no' if weights is None else len(weights)} weights do not belong together"
        )
    if weights is None:
        weights = torch.ones(len(targets), device=hidden.device)
    scales = (weights.float() / denominator).detach()
    compute: Callable[..., tuple[Tensor, Tensor]] = _HeadLoss.apply
    return HeadLoss(*compute(hidden, head, targets, scales, chunk_rows))


class _HeadLoss(torch.autograd.Function):
    """Loss and gradients chunk by chunk; backward only scales what forward has computed."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, scales: Tensor, chunk_rows: int
    ) -> tuple[Tensor, Tensor]:
        per_target = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        of_head = torch.zeros_like(head) if ctx.needs_input_grad[1] else None
        for start in range(0, len(targets), chunk_rows):
            rows = slice(start, start + chunk_rows)
            logits = (hidden[rows] @ head.T).float()
            wanted = logits.gather(1, targets[rows, None])[:, 0]
            top = logits.amax(1)
            # From here on `logits` holds exponentials, then gradients: no second copy of it.
            total = logits.sub_(top[:, None]).exp_().sum(1)
            per_target[rows] = total.log() + top - wanted
            if of_hidden is None and of_head is None:
                continue
            gradient = logits.mul_((scales[rows] / total)[:, None])
            gradient.scatter_add_(1, targets[rows, None], -scales[rows, None])
            gradient = gradient.to(head.dtype)
            if of_hidden is not None:
                of_hidden[rows] = gradient @ head
            if of_head is not None:
                of_head.addmm_(gradient.T, hidden[rows].to(head.dtype))
        ctx.of_hidden, ctx.of_head = of_hidden, of_head
        ctx.mark_non_differentiable(per_target)
        return (per_target * scales).sum(), per_target

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        of_hidden, of_head = ctx.of_hidden, ctx.of_head
        # Given up here, so that the optimiser step does not hold them as well.
        ctx.of_hidden = ctx.of_head = None
        scaled = [g if g is None else g.mul_(of_loss.to(g.dtype)) for g in (of_hidden, of_head)]
        return *scaled, None, None, None


class LossTable:
    """Sums of losses by task, modality and mask ratio, kept on the device until they are read.

    Attributes:
        sums: float64 [tasks, modalities, buckets, 2]: sum of the losses, number of targets.
            Summed over processes it is the table of the whole step.
    """

    def __init__(
        self, tasks: int, modalities: int, buckets: int, device: torch.device | str = "cpu"
    ) -> None:
        """An empty table of these sizes; bucket b holds mask ratios from b / buckets on."""
        self.sums = torch.zeros(
            tasks, modalities, buckets, 2, dtype=torch.float64, device=torch.device(device)
        )

    def add(self, losses: Tensor, task: Tensor, modality: Tensor, ratio: Tensor) -> None:
        """Count targets in, without waiting for the device.

        Args:
            losses: `HeadLoss.per_target`, float [N].
            task: of each target, int64 [N].
            modality: of each target, int64 [N].
            ratio: mask ratio t of each target's sample, float [N] in 0..1.
        """
        _, modalities, buckets, _ = self.sums.shape
        bucket = (ratio * buckets).long().clamp(max=buckets - 1)
        cell = (task * modalities + modality) * buckets + bucket
        values = torch.stack((losses.double(), torch.ones_like(losses).double()), dim=1)
        self.sums.view(-1, 2).index_add_(0, cell, values)
