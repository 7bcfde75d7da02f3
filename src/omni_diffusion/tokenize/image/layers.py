"""Building blocks of the MAGVIT-v2 encoder and decoder, with the published key names."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from omni_diffusion.tokenize.image.config import NORM_GROUPS
from omni_diffusion.tokenize.image.cpu_convolution import CpuConvolution

_NORM_EPS = 1e-6


def group_norm(channels: int) -> nn.GroupNorm:
    """The normalisation used throughout."""
    return nn.GroupNorm(NORM_GROUPS, channels, eps=_NORM_EPS)


class Conv3x3(nn.Conv2d):
    """3x3 convolution that can take in the steps around it.

    Given a `norm` it computes `conv(swish(norm(x)))`; given a `residual`, the sum with that.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)
        self._frozen: CpuConvolution | None = None

    def freeze(self) -> None:
        """Switch to the fast form for the CPU; later changes of the weights have no effect."""
        self._frozen = CpuConvolution(self)

    def forward(
        self, x: Tensor, norm: nn.GroupNorm | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """`[B, C, H, W]` to `[B, O, H, W]`; once frozen, `residual` is overwritten."""
        if self._frozen is not None:
            return self._frozen(x, norm, residual)
        if norm is not None:
            x = functional.silu(norm(x))
        out = super().forward(x)
        return out if residual is None else residual + out


class ResnetBlock(nn.Module):
    """Two normalised convolutions around a shortcut: `[B, C, H, W]` to `[B, O, H, W]`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = Conv3x3(in_channels, out_channels)
        self.norm2 = group_norm(out_channels)
        self.conv2 = Conv3x3(out_channels, out_channels)
        self.nin_shortcut: nn.Conv2d | None = None
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block; once frozen, `x` may be overwritten."""
        h = self.conv1(x, norm=self.norm1)
        shortcut = x if self.nin_shortcut is None else self.nin_shortcut(x)
        out: Tensor = self.conv2(h, norm=self.norm2, residual=shortcut)
        return out


class AttentionBlock(nn.Module):
    """Self-attention over all positions with one head as wide as the layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, kernel_size=1)
        self.k = nn.Conv2d(channels, channels, kernel_size=1)
        self.v = nn.Conv2d(channels, channels, kernel_size=1)
        self.proj_out = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same shape."""
        # Contiguous, since torch normalises channels-last tensors less exactly on a CPU, and not
        # through the module, which refuses the single position of a picture of 16x16 pixels.
        norm = self.norm
        h = torch.group_norm(x.contiguous(), norm.num_groups, norm.weight, norm.bias, norm.eps)
        q, k, v = (
            conv(h).flatten(2).transpose(1, 2).unsqueeze(1) for conv in (self.q, self.k, self.v)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = x + self.proj_out(mixed.squeeze(1).transpose(1, 2).reshape(x.shape))
        return out


class Downsample(nn.Module):
    """Halve height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, C, H/2, W/2]`; the zero padding is right and below only."""
        out: Tensor = self.conv(functional.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Double height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, C, 2H, 2W]`."""
        out: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Middle(nn.Module):
    """The blocks at the lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.attn_1 = AttentionBlock(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same shape."""
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Level(nn.Module):
    """Residual blocks at one resolution, then the change to the next one, if any."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.block = nn.ModuleList(ResnetBlock(a, b) for a, b in pairwise(widths))
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, O, ...]` at the next level's resolution."""
        for step in (*self.block, self.downsample, self.upsample):
            x = x if step is None else step(x)
        return x


def freeze_for_cpu(module: nn.Module) -> None:
    """Turn every 3x3 convolution inside into its fast form (float32 on the CPU, no gradients)."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for part in module.modules():
        if isinstance(part, Conv3x3):
            part.freeze()
