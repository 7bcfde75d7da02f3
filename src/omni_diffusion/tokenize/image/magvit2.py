"""MAGVIT-v2 (arXiv 2310.05737) as in `showlab/magvitv2`: pictures to 13 signs a position and back.

The key names of the state dict are those of the published file: `encoder.*`, `decoder.*`,
`quantize.embedding`, `quantize.power_vals`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from omni_diffusion.tokenize.image.config import MagvitConfig, StackConfig
from omni_diffusion.tokenize.image.layers import (
    Conv3x3,
    Downsample,
    Level,
    Middle,
    Upsample,
    freeze_for_cpu,
    group_norm,
)
from omni_diffusion.tokenize.image.lfq import LookupFreeQuantizer


class Encoder(nn.Module):
    """Pixels `[B, 3, H, W]` to latents `[B, z_channels, H/16, W/16]` (16 for five levels)."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        width = config.ch
        self.conv_in = Conv3x3(3, width)
        self.down = nn.ModuleList()
        for out_width, blocks in zip(config.widths, config.num_res_blocks, strict=True):
            level = Level(width, out_width, blocks)
            width = out_width
            if len(self.down) + 1 < len(config.widths):
                level.downsample = Downsample(width)
            self.down.append(level)
        self.mid = Middle(width)
        self.norm_out = group_norm(width)
        self.conv_out = Conv3x3(width, config.z_channels)
        self.quant_conv = nn.Conv2d(config.z_channels, config.z_channels, kernel_size=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Latents before quantisation."""
        h = self.conv_in(pixels)
        for level in self.down:
            h = level(h)
        out: Tensor = self.quant_conv(self.conv_out(self.mid(h), norm=self.norm_out))
        return out


class Decoder(nn.Module):
    """Quantised latents `[B, z_channels, h, w]` to pixels `[B, 3, 16h, 16w]`, roughly -1 to 1."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        self.post_quant_conv = nn.Conv2d(config.z_channels, config.z_channels, kernel_size=1)
        self.conv_in = Conv3x3(config.z_channels, width)
        self.mid = Middle(width)
        # `up` is numbered like the encoder's levels, from full resolution, and run backwards.
        self.up = nn.ModuleList()
        for index in reversed(range(len(config.widths))):
            level = Level(width, config.widths[index], config.num_res_blocks[index])
            width = config.widths[index]
            if index:
                level.upsample = Upsample(width)
            self.up.insert(0, level)
        self.norm_out = group_norm(width)
        self.conv_out = Conv3x3(width, 3)

    def forward(self, z: Tensor) -> Tensor:
        """Pixels, not clamped."""
        h = self.mid(self.conv_in(self.post_quant_conv(z)))
        for level in reversed(self.up):
            h = level(h)
        out: Tensor = self.conv_out(h, norm=self.norm_out)
        return out


class MagvitOutput(NamedTuple):
    """What a training step needs.

    Attributes:
        reconstruction: `[B, 3, H, W]`.
        codes: int64 `[B, h, w]`.
        losses: `entropy` and `commitment`, scalars already weighted as published; the
            reconstruction loss is the caller's choice.
    """

    reconstruction: Tensor
    codes: Tensor
    losses: dict[str, Tensor]


class MagvitV2(nn.Module):
    """Encoder, quantiser and decoder; random weights until some are loaded."""

    def __init__(self, config: MagvitConfig | None = None) -> None:
        super().__init__()
        self.config = config or MagvitConfig()
        self.encoder = Encoder(self.config.encoder)
        self.decoder = Decoder(self.config.decoder)
        self.quantize = LookupFreeQuantizer(self.config.codebook_dim)

    def forward(self, pixels: Tensor) -> MagvitOutput:
        """Encode, quantise with straight-through gradients and decode, for training."""
        quantized = self.quantize(self.encoder(pixels))
        losses = {"entropy": quantized.entropy_loss, "commitment": quantized.commitment_loss}
        return MagvitOutput(self.decoder(quantized.z), quantized.codes, losses)

    def freeze(self) -> MagvitV2:
        """Prepare for inference only: eval mode, no gradients, fast convolutions on a CPU.

        Call it after loading weights and moving to device and dtype. On the CPU in float32 the
        model then must be called under `torch.inference_mode` or `no_grad`, and later changes
        of its weights have no effect.
        """
        self.eval().requires_grad_(False)
        weight = self.encoder.conv_in.weight
        if weight.device.type == "cpu" and weight.dtype == torch.float32:
            freeze_for_cpu(self)
        return self
