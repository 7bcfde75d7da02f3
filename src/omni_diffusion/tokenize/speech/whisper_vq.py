"""GLM-4-Voice's speech encoder: Whisper's encoder cut at a layer, pooled and vector-quantised.

Published as `zai-org/glm-4-voice-tokenizer` (GLM-4-Voice, arXiv 2412.02612, section 3.1): causal
convolutions, attention that is causal over blocks of 4 s, and after layer 16 the mean of every
four frames replaced by the nearest of 16,384 codebook rows, 12.5 a second. Module names are the
keys of the published checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_diffusion.errors import WeightsError

UNUSED_KEYS = ("embed_positions2", "ema_")
"""In the checkpoint, but only for training: positions added after quantisation, code statistics."""

FRAMES_PER_MEL_STEP = 2

# The code below holds for these values only; any other would silently give other codes.
_FIXED = {
    "encoder_causal_convolution": True,
    "encoder_causal_attention": False,
    "quantize_causal_encoder": False,
    "pooling_type": "avg",
    "activation_function": "gelu",
    "num_mel_bins": 128,
    "max_source_positions": 1500,
}


@dataclass(frozen=True, kw_only=True)
class WhisperVQConfig:
    """Sizes of the encoder, named as in the published `config.json`.

    Attributes:
        num_mel_bins: bands of the features: 128.
        d_model: width.
        encoder_attention_heads: heads a layer.
        encoder_ffn_dim: inner width of the feed-forward part.
        max_source_positions: longest input, in frames of 20 ms: 1500, 30 s.
        quantize_position: layers run before quantisation; pooling follows the same layer.
        pooling_position: must equal `quantize_position`.
        pooling_kernel_size: frames a code.
        quantize_vocab_size: rows of the codebook.
        quantize_causal_block_size: frames that see each other whatever their order.
    """

    num_mel_bins: int
    d_model: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    max_source_positions: int
    quantize_position: int
    pooling_position: int
    pooling_kernel_size: int
    quantize_vocab_size: int
    quantize_causal_block_size: int

    @classmethod
    def from_dict(cls, published: dict[str, Any], source: object) -> WhisperVQConfig:
        """Pick the sizes out of a published `config.json`; its decoder part is not used.

        Raises:
            WeightsError: a size is missing or not a whole number, or a switch asks for an
                encoder that is built otherwise.
        """
        for key, value in _FIXED.items():
            if published.get(key, value) != value:
                raise WeightsError(f"{source}: {key}={published[key]!r}, only {value!r} is known")
        sizes: dict[str, Any] = {field.name: published.get(field.name) for field in fields(cls)}
        for key, size in sizes.items():
            if not isinstance(size, int) or size <= 0:
                raise WeightsError(f"{source}: {key} is {size!r}, not a positive whole number")
        config = cls(**sizes)
        if config.pooling_position != config.quantize_position:
            raise WeightsError(f"{source}: pooling_position differs from quantize_position")
        if config.d_model % config.encoder_attention_heads:
            raise WeightsError(f"{source}: d_model is not a multiple of encoder_attention_heads")
        return config

    @classmethod
    def from_file(cls, path: Path) -> WhisperVQConfig:
        """Read `config.json`.

        Raises:
            WeightsError: absent, not JSON, or as for `from_dict`.
        """
        try:
            published = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WeightsError(f"{path}: cannot be read as a configuration: {error}") from error
        return cls.from_dict(published, path)


@dataclass(frozen=True)
class QueryBlock:
    """One block of queries and the keys that all of them see.

    Attributes:
        start: first query.
        stop: end of the queries.
        seen: the keys are 0 up to here.
        mask: bool `[batch, 1, 1, seen]`, False where a key is padding; None where none is.
    """

    start: int
    stop: int
    seen: int
    mask: Tensor | None


def query_blocks(n_frames: Tensor, padded_frames: int, block_size: int) -> list[QueryBlock]:
    """Cut block-causal attention into plain calls, so no frames x frames mask is ever built.

    A query may see its own block and all before it, unless it is padding: every query of a block
    then shares one range of keys, from 0 to the end of the block.

    Args:
        n_frames: int64 `[batch]`, frames that are not padding.
        padded_frames: frames of the batch.
        block_size: frames that see each other whatever their order.
    """
    shortest, longest = int(n_frames.min()), int(n_frames.max())
    blocks = []
    for start in range(0, padded_frames, block_size):
        seen = min(start + block_size, longest)
        mask = None
        if seen > shortest:
            positions = torch.arange(seen, device=n_frames.device)
            mask = (positions < n_frames[:, None])[:, None, None, :]
        blocks.append(QueryBlock(start, min(start + block_size, padded_frames), seen, mask))
    return blocks


class BlockCausalAttention(nn.Module):
    """Multi-head attention over the blocks that `query_blocks` lists."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor, blocks: list[QueryBlock]) -> Tensor:
        """Map `[batch, frames, width]` to the same shape."""
        query, key, value = (
            projected.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden))
        )
        parts = [
            F.scaled_dot_product_attention(
                query[:, :, block.start : block.stop],
                key[:, :, : block.seen],
                value[:, :, : block.seen],
                attn_mask=block.mask,
            )
            for block in blocks
        ]
        mixed = torch.cat(parts, dim=2).transpose(1, 2).flatten(2)
        return self.out_proj(mixed)  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Whisper's encoder layer: normalise first, then attention or feed-forward, then add."""

    def __init__(self, config: WhisperVQConfig) -> None:
        super().__init__()
        width, inner = config.d_model, config.encoder_ffn_dim
        self.self_attn = BlockCausalAttention(width, config.encoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, hidden: Tensor, blocks: list[QueryBlock]) -> Tensor:
        """Map `[batch, frames, width]` to the same shape."""
        hidden = hidden + self.self_attn(self.self_attn_layer_norm(hidden), blocks)
        inner = F.gelu(self.fc1(self.final_layer_norm(hidden)))
        return hidden + self.fc2(inner)  # type: ignore[no-any-return]


class WhisperVQEncoder(nn.Module):
    """Log-mel features to codes; see the module's description."""

    def __init__(self, config: WhisperVQConfig) -> None:
        super().__init__()
        self.config = config
        width = config.d_model
        self.conv1 = nn.Conv1d(config.num_mel_bins, width, kernel_size=3)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=FRAMES_PER_MEL_STEP)
        self.embed_positions = nn.Embedding(config.max_source_positions, width)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.quantize_position))
        self.codebook = nn.Embedding(config.quantize_vocab_size, width)

    def stem(self, features: Tensor) -> Tensor:
        """Causal convolutions and positions: `[batch, mels, 2t]` to `[batch, t, width]`.

        The context is padded on the left only (2 steps, also before the stride of 2), so later
        sound never reaches an earlier frame. TensorFloat-32 is kept out on GPUs: it would turn
        close decisions between codes.
        """
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            hidden = F.gelu(self.conv1(F.pad(features, (2, 0))))
            hidden = F.gelu(self.conv2(F.pad(hidden, (2, 0)))).transpose(1, 2)
        return hidden + self.embed_positions.weight[: hidden.shape[1]]

    def pooled(self, features: Tensor, n_frames: Tensor) -> Tensor:
        """Vectors that are about to be quantised.

        Args:
            features: `[batch, mels, 8 * codes]` float, mel steps of 10 ms.
            n_frames: int64 `[batch]`, frames of 20 ms that are not padding, each at least 1.

        Returns:
            `[batch, codes, width]`; rows that lie wholly in padding mean nothing.
        """
        hidden = self.stem(features)
        block_size = self.config.quantize_causal_block_size
        blocks = query_blocks(n_frames, hidden.shape[1], block_size)
        for layer in self.layers:
            hidden = layer(hidden, blocks)
        batch, frames, width = hidden.shape
        per_code = self.config.pooling_kernel_size
        return hidden.reshape(batch, frames // per_code, per_code, width).mean(dim=2)

    def quantize(self, pooled: Tensor) -> Tensor:
        """Nearest codebook row by squared distance: `[..., width]` to int64 `[...]`."""
        rows = self.codebook.weight
        flat = pooled.reshape(-1, pooled.shape[-1])
        # |x - c|^2 without |x|^2, which is the same for every row c.
        distance = torch.addmm((rows * rows).sum(dim=1), flat, rows.T, alpha=-2.0)
        return distance.argmin(dim=1).reshape(pooled.shape[:-1])

    def forward(self, features: Tensor, n_frames: Tensor) -> Tensor:
        """Codes of a batch: int64 `[batch, codes]`, arguments as for `pooled`."""
        return self.quantize(self.pooled(features, n_frames))
