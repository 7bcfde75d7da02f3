"""Operations of a training step, counted from shapes; a product with its addition is two.

What the model **needs** for tokens in samples whose squared lengths sum to `pairs`, with `targets`
of them predicted (h hidden size):

    linear       6 tokens (products of the layers), 4 with frozen weights
    attention    12 h pairs a layer
    head         6 targets h vocabulary, 4 where it is frozen

What is **spent** is more: the way back through attention computes its scores again (2 h pairs a
layer), and activation checkpointing the whole way forward. Model FLOPs utilisation (MFU) counts
what is needed only, so that computing things twice does not look like speed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from omni_diffusion.backbone.dream import Dream

PEAK_FLOPS: Final = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
"""Dense bf16 operations a second by the makers' data sheets; the first name that fits counts."""


def peak_flops(device: torch.device) -> float | None:
    """Peak of a device in bf16; None where it is not known, as for any CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFlops:
    """What a step's operations follow from.

    Attributes:
        layers: parameters of the layers that are multiplied with (a bias is an addition).
        learning: those of them that are trained.
        depth: number of layers.
        hidden_size: h.
        head: parameters of the output layer.
        head_learns: whether it is trained.
    """

    layers: int
    learning: int
    depth: int
    hidden_size: int
    head: int
    head_learns: bool

    @classmethod
    def of(cls, model: Dream) -> ModelFlops:
        """Count a model, on any device; sharded ones count whole."""
        products = [p for p in model.model.layers.parameters() if p.dim() > 1]
        head = model.lm_head.weight
        return cls(
            layers=_numbers(products),
            learning=_numbers(p for p in products if p.requires_grad),
            depth=model.config.num_hidden_layers,
            hidden_size=model.config.hidden_size,
            head=head.numel(),
            head_learns=head.requires_grad,
        )

    def needed(self, tokens: float, pairs: float, targets: float) -> float:
        """Operations that the mathematics asks for.

        Args:
            tokens: that go through the layers.
            pairs: of tokens that attend to each other: the sum of squared sample lengths.
            targets: tokens that are predicted.
        """
        linear = tokens * (4 * self.layers + 2 * self.learning)
        attention = 12 * pairs * self.hidden_size * self.depth
        return linear + attention + targets * self.head * (6 if self.head_learns else 4)

    def spent(self, tokens: float, pairs: float, targets: float, *, checkpointing: bool) -> float:
        """Operations that are carried out, some of them twice; arguments as `needed`."""
        again = 2 * pairs * self.hidden_size * self.depth
        if checkpointing:
            again += 2 * tokens * self.layers + 4 * pairs * self.hidden_size * self.depth
        return self.needed(tokens, pairs, targets) + again


def _numbers(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)
