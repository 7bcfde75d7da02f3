"""Angles of sinusoidal position encodings (arXiv 1706.03762, section 3.5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def position_angles(position: Tensor, n_frequencies: int, *, endpoint: bool) -> Tensor:
    """Each position times each of the frequencies that fall geometrically from 1 to 1/10000.

    Args:
        position: float32 [length], in steps.
        n_frequencies: how many; two or more with `endpoint`.
        endpoint: whether 1/10000 itself is the last frequency; otherwise the one after the last
            would be.

    Returns:
        float32 [length, n_frequencies], in radians.
    """
    steps = n_frequencies - 1 if endpoint else n_frequencies
    index = torch.arange(n_frequencies, device=position.device, dtype=torch.float32)
    return position[:, None] * torch.exp(index * -(math.log(10000.0) / steps))
