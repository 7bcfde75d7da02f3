"""SenseVoice's network: the speech encoder and the adapter to the language model.

The encoder of FunAudioLLM/SenseVoiceSmall is SAN-M (arXiv 2006.01713): self-attention with a
depthwise convolution over the values (the FSMN memory) added to its output. Four learned vectors,
which ask for language, event, emotion and text normalisation, go in front of the speech.

Module names follow the keys of the published checkpoints; `sensevoice.py` loads them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from omni_diffusion.tokenize.speech.fbank import FEATURE_SIZE
from omni_diffusion.tokenize.speech.sinusoids import position_angles

QUERIES = (0, 1, 2, 15)
"""Rows of `embed` put before the speech: language "auto", event, emotion, no text normalisation."""


@dataclass(frozen=True, kw_only=True)
class SenseVoiceConfig:
    """Shape of the encoder; defaults are those of FunAudioLLM/SenseVoiceSmall.

    Attributes:
        output_size: width of the encoder.
        attention_heads: number of attention heads.
        linear_units: hidden width of the feed-forward layers.
        num_blocks: layers before `after_norm`, the widening first one included.
        tp_blocks: layers after it.
        kernel_size: frames that the FSMN memory spans.
    """

    output_size: int = 512
    attention_heads: int = 4
    linear_units: int = 2048
    num_blocks: int = 50
    tp_blocks: int = 20
    kernel_size: int = 11


def absolute_positions(length: int, width: int, device: torch.device) -> Tensor:
    """Sinusoids of the positions 1 to `length`: all sines, then all cosines.

    Returns:
        float32 [length, width].
    """
    position = torch.arange(1, length + 1, device=device, dtype=torch.float32)
    angle = position_angles(position, width // 2, endpoint=True)
    return torch.cat((angle.sin(), angle.cos()), dim=1)


class SanmAttention(nn.Module):
    """Self-attention plus FSMN memory."""

    def __init__(self, width_in: int, config: SenseVoiceConfig) -> None:
        super().__init__()
        width, kernel = config.output_size, config.kernel_size
        self.heads = config.attention_heads
        self.linear_q_k_v = nn.Linear(width_in, 3 * width)
        self.fsmn_block = nn.Conv1d(
            width, width, kernel, padding=kernel // 2, groups=width, bias=False
        )
        self.linear_out = nn.Linear(width, width)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Attend.

        Args:
            x: [batch, length, width_in].
            valid: bool [batch, length], False on padding.

        Returns:
            [batch, length, width].
        """
        query, key, value = self.linear_q_k_v(x).chunk(3, dim=-1)
        kept = value * valid[:, :, None]
        memory = kept + self.fsmn_block(kept.transpose(1, 2)).transpose(1, 2)
        attended = functional.scaled_dot_product_attention(
            self._split(query), self._split(key), self._split(value), valid[:, None, None]
        )
        mapped: Tensor = self.linear_out(attended.transpose(1, 2).flatten(2)) + memory
        return mapped

    def _split(self, x: Tensor) -> Tensor:
        """Reshape [batch, length, width] to [batch, heads, length, head width]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with a rectifier between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, hidden)
        self.w_2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., width] to [..., width]."""
        mapped: Tensor = self.w_2(self.w_1(x).relu())
        return mapped


class SanmLayer(nn.Module):
    """Pre-norm attention and feed-forward; no residual around an attention that changes width."""

    def __init__(self, width_in: int, config: SenseVoiceConfig) -> None:
        super().__init__()
        width = config.output_size
        self.self_attn = SanmAttention(width_in, config)
        self.feed_forward = FeedForward(width, config.linear_units)
        self.norm1 = nn.LayerNorm(width_in)
        self.norm2 = nn.LayerNorm(width)
        self.residual = width_in == width

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Map [batch, length, width_in] to [batch, length, width]."""
        attended = self.self_attn(self.norm1(x), valid)
        x = x + attended if self.residual else attended
        mapped: Tensor = x + self.feed_forward(self.norm2(x))
        return mapped


class SanmEncoder(nn.Module):
    """The layer stack, keys under `encoder.`."""

    def __init__(self, config: SenseVoiceConfig) -> None:
        super().__init__()
        width = config.output_size
        self.scale = math.sqrt(width)
        self.encoders0 = nn.ModuleList([SanmLayer(FEATURE_SIZE, config)])
        self.encoders = nn.ModuleList(
            SanmLayer(width, config) for _ in range(config.num_blocks - 1)
        )
        self.tp_encoders = nn.ModuleList(SanmLayer(width, config) for _ in range(config.tp_blocks))
        self.after_norm = nn.LayerNorm(width)
        self.tp_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Map [batch, length, 560] and bool [batch, length] to [batch, length, width]."""
        x = x * self.scale
        x = x + absolute_positions(x.shape[1], x.shape[2], x.device).to(x.dtype)
        for layer in (*self.encoders0, *self.encoders):
            x = layer(x, valid)
        x = self.after_norm(x)
        for layer in self.tp_encoders:
            x = layer(x, valid)
        encoded: Tensor = self.tp_norm(x)
        return encoded


class SenseVoiceEncoder(nn.Module):
    """Query embeddings and encoder, keys as in SenseVoiceSmall's `model.pt` but for `ctc.*`."""

    def __init__(self, config: SenseVoiceConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(max(QUERIES) + 1, FEATURE_SIZE)
        self.encoder = SanmEncoder(config)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Encode recordings as one padded batch; padding has no influence on the result.

        Args:
            features: each [frames, 560], from `sensevoice_features`.

        Returns:
            For each, [4 + frames, output_size].
        """
        queries = self.embed(torch.tensor(QUERIES, device=self.embed.weight.device))
        inputs = [torch.cat((queries, f.to(queries))) for f in features]
        lengths = [len(x) for x in inputs]
        padded = nn.utils.rnn.pad_sequence(inputs, batch_first=True)
        steps = torch.arange(padded.shape[1], device=padded.device)
        valid = steps < torch.tensor(lengths, device=padded.device)[:, None]
        encoded = self.encoder(padded, valid)
        return [row[:length] for row, length in zip(encoded, lengths, strict=True)]


class AudioProjector(nn.Module):
    """Adapter from encoder width to language-model width, trained with the language model."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.pre_proj_layernorm = nn.LayerNorm(width_in)
        self.mlp = nn.Sequential(
            nn.Linear(width_in, width_out, bias=False),
            nn.GELU(),
            nn.Linear(width_out, width_out, bias=False),
        )

    def forward(self, encoded: Tensor) -> Tensor:
        """Map [..., width_in] to [..., width_out]."""
        projected: Tensor = self.mlp(self.pre_proj_layernorm(encoded))
        return projected
