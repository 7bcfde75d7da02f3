"""Lookup-free quantisation: a code is the signs of its channels, read as a binary number."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from omni_diffusion.errors import CodeRangeError, WeightsError

COMMITMENT_WEIGHT = 0.1
ENTROPY_WEIGHT = 0.1
BETA = 0.25


class Quantized(NamedTuple):
    """What `LookupFreeQuantizer.forward` returns.

    Attributes:
        z: `[B, C, h, w]`, -1 or +1; gradients pass through to the input unchanged.
        codes: int64 `[B, h, w]`.
        entropy_loss: scalar, low when each bit is certain and, over the batch, balanced.
        commitment_loss: scalar, low when the input is close to -1 and +1.
    """

    z: Tensor
    codes: Tensor
    entropy_loss: Tensor
    commitment_loss: Tensor


class LookupFreeQuantizer(nn.Module):
    """Quantiser of MAGVIT-v2 (arXiv 2310.05737, section 3.1) with the published key names.

    Channel 0 is the most significant bit; a value of exactly zero gives bit 0.
    """

    embedding: Tensor
    power_vals: Tensor

    def __init__(self, codebook_dim: int = 13) -> None:
        super().__init__()
        self.codebook_size = 1 << codebook_dim
        embedding, power_vals = _tables(codebook_dim)
        self.register_buffer("embedding", embedding)
        self.register_buffer("power_vals", power_vals)

    def check_tables(self, source: object) -> None:
        """Raise WeightsError if loaded tables are not the binary code this class stands for."""
        embedding, power_vals = _tables(self.power_vals.numel())
        same = torch.equal(self.embedding.cpu(), embedding.to(self.embedding.dtype))
        if not same or not torch.equal(self.power_vals.cpu(), power_vals):
            raise WeightsError(f"{source}: quantize.* is not the table of binary codes")

    def codes(self, z: Tensor) -> Tensor:
        """Codes `[B, h, w]` (int64) of latents `[B, C, h, w]`."""
        return ((z > 0) * self.power_vals.view(1, -1, 1, 1)).sum(1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Latents `[B, C, h, w]` (-1 or +1) of codes `[B, h, w]`.

        Raises:
            CodeRangeError: codes are not integers or lie outside the codebook.
        """
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise CodeRangeError(f"image codes must be integers, not {codes.dtype}")
        if codes.numel() and (codes.min() < 0 or codes.max() >= self.codebook_size):
            raise CodeRangeError(
                f"image codes must be 0 to {self.codebook_size - 1}, "
                f"found {int(codes.min())} to {int(codes.max())}"
            )
        return self.embedding[codes.long()].permute(0, 3, 1, 2).contiguous()

    def forward(self, z: Tensor) -> Quantized:
        """Quantise latents `[B, C, h, w]` for training."""
        signs = torch.where(z > 0, 1.0, -1.0).to(z.dtype)
        straight_through = z + (signs - z).detach()
        # As published: the second term also reaches z, through the straight-through estimate,
        # and takes a quarter off the pull of the first.
        commitment = functional.mse_loss(z, signs) + BETA * functional.mse_loss(
            straight_through, z.detach()
        )
        return Quantized(
            z=straight_through,
            codes=self.codes(z),
            entropy_loss=ENTROPY_WEIGHT * _entropy_gap(z),
            commitment_loss=COMMITMENT_WEIGHT * commitment,
        )


def _tables(codebook_dim: int) -> tuple[Tensor, Tensor]:
    """Latents of all codes, float32 `[codebook_size, codebook_dim]`, and the bits' values."""
    powers = 2 ** torch.arange(codebook_dim - 1, -1, -1)
    bits = torch.arange(1 << codebook_dim).unsqueeze(1) & powers
    return torch.where(bits > 0, 1.0, -1.0), powers


def _entropy_gap(z: Tensor) -> Tensor:
    """Mean entropy of the bits of `[B, C, h, w]` less the entropy of the mean bits, in nats.

    A bit's probability is the softmax of minus the squared distances to -1 and +1, which is
    the sigmoid of four times the value.
    """
    logits = 4 * z
    certain = torch.sigmoid(logits)
    each = (functional.softplus(logits) - logits * certain).mean()
    tiny = torch.finfo(z.dtype).eps
    mean = certain.mean(dim=(0, 2, 3)).clamp(tiny, 1 - tiny)  # at 0 and 1 the gradient is infinite
    overall = (torch.special.entr(mean) + torch.special.entr(1 - mean)).mean()
    gap: Tensor = each - overall
    return gap
