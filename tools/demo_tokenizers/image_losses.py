"""What the demo image tokenizer is trained for: near pictures, and codes that are all put to use.

The published layout quantises the sign of the encoder's output, whatever its size. Gradients pass
the sign as if it were not there, so nothing but `CodeLoss` keeps that output near -1 or 1: where it
grows, no gradient turns a bit any more and the code book falls out of use; where it stays near 0,
the same picture comes out in other codes tomorrow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

CELL = 16
"""Pixels along a side that one code stands for."""

# Below about this squared error (29 dB) a picture is good enough not to be worth more effort.
_ERROR_OFFSET = 0.005
# Levels, of 2, between which a cell counts as one flat colour.
_FLAT_RANGE = 0.02
# Flat paper fills half of the drawings and needs a code or two, so it hardly counts.
_FLAT_WEIGHT = 0.1
# How much more likely an output of 1 makes its bit: sigmoid(4) is 0.98.
_SHARPNESS = 4.0
# An output beyond this says no more about how its bit goes with the others.
_FARTHEST = 1.5


def straight_through(latents: Tensor) -> Tensor:
    """Signs of the latents, -1 for zero; gradients pass as if nothing had been done."""
    return latents + (signs(latents) - latents).detach()


def signs(latents: Tensor) -> Tensor:
    """What the quantiser makes of latents: 1 above zero, else -1."""
    return torch.where(latents > 0, 1.0, -1.0)


def picture_loss(made: Tensor, pixels: Tensor) -> Tensor:
    """Mean over the pictures of the logarithm of the squared error: what mean PSNR measures."""
    error = (made - pixels).square().mean(dim=(1, 2, 3))
    return (error + _ERROR_OFFSET).log().mean()


def cell_weights(pixels: Tensor, cell: int) -> Tensor:
    """How much each cell counts in the use of the code book: flat ones hardly.

    Args:
        pixels: `[B, 3, H, W]`, -1 to 1.
        cell: pixels along the side of a cell.

    Returns:
        `[B * H / cell * W / cell]`, the sum is 1.
    """
    high = functional.max_pool2d(pixels, cell)
    low = -functional.max_pool2d(-pixels, cell)
    flat = (high - low).amax(dim=1).flatten() < _FLAT_RANGE
    weights = torch.where(flat, _FLAT_WEIGHT, 1.0)
    return weights / weights.sum()


@dataclass(frozen=True)
class CodeLoss:
    """Low when outputs are near -1 or 1 and the codes of busy cells equally frequent.

    Attributes:
        commitment: weight of the squared distance to the sign.
        spread: weight of the reward for the entropy of the batch's codes, in nats a bit.
        correlation: weight of the squared means and correlations of the bits. A batch has fewer
            cells than there are codes, so entropy alone cannot see bits that go together.
    """

    commitment: float
    spread: float
    correlation: float

    def __call__(self, latents: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of all.

        Args:
            latents: `[B, bits, h, w]`, before quantisation.
            weights: of each cell, `[B * h * w]`, the sum is 1.
        """
        rows = latents.movedim(1, -1).flatten(0, -2)
        n_bits = rows.shape[1]
        distance = (rows - signs(rows)).square().mean()

        entropy = _code_entropy(_SHARPNESS * rows, weights) / n_bits

        bounded = rows.clamp(-_FARTHEST, _FARTHEST)
        weighted = weights[:, None] * bounded
        products = (weighted.T @ bounded).square()
        pairs = (products.sum() - products.diagonal().sum()) / 2
        together = (weighted.sum(0).square().sum() + pairs) / n_bits
        loss: Tensor = (
            self.commitment * distance - self.spread * entropy + self.correlation * together
        )
        return loss


def _code_entropy(logits: Tensor, weights: Tensor) -> Tensor:
    """Entropy in nats of the codes of all cells, where each bit is 1 by the chance of its logit.

    The bits of a cell are independent, so the chance of a code is that of its first half times
    that of its second, and the mean over the cells is one product of two narrow matrices.

    Args:
        logits: `[N, bits]`.
        weights: `[N]`, the sum is 1.
    """
    half = logits.shape[1] // 2
    first, second = (_half_chances(part) for part in (logits[:, :half], logits[:, half:]))
    entropy: Tensor = torch.special.entr((weights[:, None] * first).T @ second).sum()
    return entropy


def _half_chances(logits: Tensor) -> Tensor:
    """The chance of each combination of some bits: `[N, bits]` to `[N, 2 ** bits]`."""
    numbers = torch.arange(1 << logits.shape[1])
    ones = (numbers[:, None] >> torch.arange(logits.shape[1]) & 1).to(logits.dtype)
    log_chance = functional.logsigmoid(logits) @ ones.T
    return (log_chance + functional.logsigmoid(-logits) @ (1 - ones).T).exp()
