"""The velocity field of the flow-matching decoder: a 1-D U-Net with attention blocks.

It is the estimator of Matcha-TTS (arXiv 2309.03199, section 2.3) in CosyVoice's dimensions. Module
names and their numbering follow the published `flow.pt` (`decoder.estimator.*`): every stage is a
list of residual block, transformer blocks and, outside the middle, a convolution that halves,
doubles or keeps the frame rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 8
TIME_SCALE = 1000.0
"""The time in 0..1 is multiplied by this before its sinusoids are taken."""


@dataclass(frozen=True, kw_only=True)
class EstimatorConfig:
    """Shape of the U-Net; defaults are those of zai-org/glm-4-voice-decoder.

    Attributes:
        in_channels: channels of noisy mel, encoded tokens, speaker and prompt mel together.
        out_channels: mel bands.
        channels: width of each resolution, finest first.
        attention_head_dim: channels of one attention head.
        n_blocks: transformer blocks a stage.
        num_mid_blocks: stages at the coarsest resolution.
        num_heads: attention heads.
    """

    in_channels: int = 320
    out_channels: int = 80
    channels: tuple[int, ...] = (256, 256)
    attention_head_dim: int = 64
    n_blocks: int = 4
    num_mid_blocks: int = 12
    num_heads: int = 8


class TimeEmbedding(nn.Module):
    """Sinusoids of the time, then a two-layer perceptron."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.linear_1 = nn.Linear(in_channels, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        """Embed a scalar time in 0..1 as [1, width]."""
        half = self.in_channels // 2
        index = torch.arange(half, device=time.device, dtype=torch.float32)
        frequency = torch.exp(index * -(math.log(10000.0) / (half - 1)))
        angle = TIME_SCALE * time.float() * frequency
        sinusoids = torch.cat((angle.sin(), angle.cos()))[None].to(self.linear_1.weight.dtype)
        embedded: Tensor = self.linear_2(functional.silu(self.linear_1(sinusoids)))
        return embedded


class ConvBlock(nn.Module):
    """Convolution over three frames, group norm, mish."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv1d(channels_in, channels_out, 3, padding=1),
            nn.GroupNorm(GROUPS, channels_out),
            nn.Mish(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels_in, frames] to [batch, channels_out, frames]."""
        mapped: Tensor = self.block(x)
        return mapped


class ResidualBlock(nn.Module):
    """Two convolution blocks with the time added between them."""

    def __init__(self, channels_in: int, channels_out: int, time_width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_width, channels_out))
        self.block1 = ConvBlock(channels_in, channels_out)
        self.block2 = ConvBlock(channels_out, channels_out)
        self.res_conv = nn.Conv1d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map [batch, channels_in, frames] and time [1, time_width]."""
        hidden = self.block1(x) + self.mlp(time).unsqueeze(-1)
        mapped: Tensor = self.block2(hidden) + self.res_conv(x)
        return mapped


class Attention(nn.Module):
    """Self-attention over all frames; keys named as in diffusers."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_k = nn.Linear(width, heads * head_width, bias=False)
        self.to_v = nn.Linear(width, heads * head_width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(heads * head_width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, frames, width] to the same shape."""
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        mapped: Tensor = self.to_out[0](attended.transpose(1, 2).flatten(2))
        return mapped


class GeluProjection(nn.Module):
    """Linear layer and exact gelu under one name, as diffusers stores them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., width] to [..., hidden]."""
        return functional.gelu(self.proj(x))


class FeedForward(nn.Module):
    """Perceptron of four times the width; index 1 of `net` was dropout in training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            GeluProjection(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., width] to [..., width]."""
        mapped: Tensor = self.net(x)
        return mapped


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and feed-forward; there is no cross-attention, so no `norm2`."""

    def __init__(self, width: int, config: EstimatorConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, config.num_heads, config.attention_head_dim)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, frames, width] to the same shape."""
        x = x + self.attn1(self.norm1(x))
        mapped: Tensor = x + self.ff(self.norm3(x))
        return mapped


class Resample(nn.Module):
    """A convolution under the name `conv`, which changes the frame rate by two."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels, frames] to half or double the frames."""
        mapped: Tensor = self.conv(x)
        return mapped


def _stage(channels_in: int, channels_out: int, config: EstimatorConfig) -> nn.ModuleList:
    """Residual block and transformer blocks, numbered 0 and 1."""
    time_width = 4 * config.channels[0]
    blocks = nn.ModuleList(TransformerBlock(channels_out, config) for _ in range(config.n_blocks))
    return nn.ModuleList([ResidualBlock(channels_in, channels_out, time_width), blocks])


def _run_stage(stage: nn.Module, x: Tensor, time: Tensor) -> Tensor:
    """Run a stage's residual and transformer blocks on [batch, channels, frames]."""
    residual, blocks, *_ = stage.children()
    x = residual(x, time).transpose(1, 2)
    for block in blocks.children():
        x = block(x)
    return x.transpose(1, 2)


class Estimator(nn.Module):
    """The U-Net: down one resolution a stage, a middle, and up again over skip connections."""

    def __init__(self, config: EstimatorConfig) -> None:
        super().__init__()
        widths = config.channels
        self.time_mlp = TimeEmbedding(config.in_channels, 4 * widths[0])
        self.down_blocks, self.mid_blocks, self.up_blocks = (nn.ModuleList() for _ in range(3))
        width_in = config.in_channels
        for level, width in enumerate(widths):
            last = level == len(widths) - 1
            keep = nn.Conv1d(width, width, 3, padding=1)
            stage = _stage(width_in, width, config)
            stage.append(keep if last else Resample(nn.Conv1d(width, width, 3, 2, 1)))
            self.down_blocks.append(stage)
            width_in = width
        for _ in range(config.num_mid_blocks):
            self.mid_blocks.append(_stage(width_in, width_in, config))
        widths_up = (*widths[::-1], widths[0])
        for level, (width_in, width) in enumerate(pairwise(widths_up)):
            last = level == len(widths) - 1
            keep = nn.Conv1d(width, width, 3, padding=1)
            stage = _stage(2 * width_in, width, config)
            stage.append(keep if last else Resample(nn.ConvTranspose1d(width, width, 4, 2, 1)))
            self.up_blocks.append(stage)
        self.final_block = ConvBlock(widths[0], widths[0])
        self.final_proj = nn.Conv1d(widths[0], config.out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Predict the velocity.

        Args:
            x: [batch, in_channels, frames], all sequences of one length.
            time: scalar in 0..1.

        Returns:
            [batch, out_channels, frames].
        """
        embedded = self.time_mlp(time)
        skips: list[Tensor] = []
        for stage in self.down_blocks:
            x = _run_stage(stage, x, embedded)
            skips.append(x)
            x = list(stage.children())[2](x)
        for stage in self.mid_blocks:
            x = _run_stage(stage, x, embedded)
        for stage in self.up_blocks:
            skip = skips.pop()
            # An odd number of frames was rounded up on the way down.
            x = torch.cat((x[:, :, : skip.shape[-1]], skip), dim=1)
            x = _run_stage(stage, x, embedded)
            x = list(stage.children())[2](x)
        velocity: Tensor = self.final_proj(self.final_block(x))
        return velocity
