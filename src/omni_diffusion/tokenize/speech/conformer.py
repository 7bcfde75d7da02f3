"""The text side of the GLM-4-Voice decoder: a conformer encoder with block-causal attention.

A speech token sees every earlier token and all tokens of its own block of `block_size`, so a
decoder that receives tokens in blocks computes the same as one that has them all. Positions are
relative (Transformer-XL, arXiv 1901.02860, section 3.3) in ESPnet's layout. The published model
uses neither the convolution module nor the macaron feed-forward of the conformer.

Module names follow the keys of the published `flow.pt` (`encoder.*`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omni_diffusion.tokenize.speech.sinusoids import position_angles


@dataclass(frozen=True, kw_only=True)
class ConformerConfig:
    """Shape of the encoder; defaults are those of zai-org/glm-4-voice-decoder.

    Attributes:
        input_size: width of the token embeddings.
        output_size: width of the encoder.
        attention_heads: number of attention heads.
        linear_units: hidden width of the feed-forward layers.
        num_blocks: number of layers.
        block_size: tokens that see each other in both directions.
    """

    input_size: int = 512
    output_size: int = 512
    attention_heads: int = 8
    linear_units: int = 2048
    num_blocks: int = 6
    block_size: int = 10


def block_causal_mask(length: int, block_size: int, device: torch.device) -> Tensor:
    """Which key (column) each query (row) sees: all of its block and everything before it.

    Returns:
        bool [length, length], True where attention is allowed.
    """
    block = torch.arange(length, device=device) // block_size
    return block[None, :] <= block[:, None]


def relative_positions(length: int, width: int, device: torch.device) -> Tensor:
    """Sinusoids of the distances `length - 1` down to `-(length - 1)`, sine and cosine interleaved.

    Returns:
        float32 [2 * length - 1, width]; row `length - 1 - d` describes distance `d`.
    """
    distance = torch.arange(length - 1, -length, -1, device=device, dtype=torch.float32)
    angle = position_angles(distance, width // 2, endpoint=False)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)


class RelativeSelfAttention(nn.Module):
    """Multi-head self-attention over content and relative distance."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, self.head_width))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, self.head_width))

    def _split(self, x: Tensor) -> Tensor:
        """Reshape [..., length, width] to [..., heads, length, head_width]."""
        return x.view(*x.shape[:-1], self.heads, self.head_width).transpose(-3, -2)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Attend.

        Args:
            x: [batch, length, width].
            positions: [2 * length - 1, width], as `relative_positions` makes them.
            mask: bool [length, length], True where attention is allowed.

        Returns:
            [batch, length, width].
        """
        length = x.shape[1]
        query, key, value = (
            self._split(project(x)) for project in (self.linear_q, self.linear_k, self.linear_v)
        )
        by_content = (query + self.pos_bias_u[:, None]) @ key.transpose(-2, -1)
        by_distance = (query + self.pos_bias_v[:, None]) @ self._split(
            self.linear_pos(positions)
        ).transpose(-2, -1)
        step = torch.arange(length, device=x.device)
        row_of_distance = length - 1 - (step[:, None] - step[None, :])
        by_distance = by_distance.gather(-1, row_of_distance.expand(*by_distance.shape[:2], -1, -1))
        scores = (by_content + by_distance) / math.sqrt(self.head_width)
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
        attended: Tensor = self.linear_out((weights @ value).transpose(1, 2).flatten(2))
        return attended


class FeedForward(nn.Module):
    """Two linear layers with a swish between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, hidden)
        self.w_2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., width] to [..., width]."""
        mapped: Tensor = self.w_2(nn.functional.silu(self.w_1(x)))
        return mapped


class ConformerLayer(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual connection."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        width = config.output_size
        self.self_attn = RelativeSelfAttention(width, config.attention_heads)
        self.feed_forward = FeedForward(width, config.linear_units)
        self.norm_mha = nn.LayerNorm(width)
        self.norm_ff = nn.LayerNorm(width)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Map [batch, length, width] to the same shape."""
        x = x + self.self_attn(self.norm_mha(x), positions, mask)
        mapped: Tensor = x + self.feed_forward(self.norm_ff(x))
        return mapped


class InputLayer(nn.Module):
    """Linear projection and layer norm in front of the first layer."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        width = config.output_size
        self.out = nn.Sequential(nn.Linear(config.input_size, width), nn.LayerNorm(width))
        self.scale = math.sqrt(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, length, input_size] to [batch, length, output_size]."""
        projected: Tensor = self.out(x)
        return projected * self.scale


class BlockConformer(nn.Module):
    """The whole encoder, `flow.pt` keys under `encoder.`."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.block_size = config.block_size
        self.embed = InputLayer(config)
        self.encoders = nn.ModuleList(ConformerLayer(config) for _ in range(config.num_blocks))
        self.after_norm = nn.LayerNorm(config.output_size)

    def forward(self, embedded: Tensor) -> Tensor:
        """Encode embedded speech tokens.

        Args:
            embedded: [batch, length, input_size], all sequences of one length.

        Returns:
            [batch, length, output_size].
        """
        x = self.embed(embedded)
        length = x.shape[1]
        positions = relative_positions(length, x.shape[2], x.device).to(x.dtype)
        mask = block_causal_mask(length, self.block_size, x.device)
        for layer in self.encoders:
            x = layer(x, positions, mask)
        encoded: Tensor = self.after_norm(x)
        return encoded
