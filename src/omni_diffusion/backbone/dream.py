"""Dream: Qwen2's network with full attention, over packed rows (arXiv 2508.15487).

Grouped queries with q, k and v biases, RMS norms, rotary positions, SwiGLU, an output layer of its
own. Module names are the keys of the published checkpoints. Row i of the output predicts token
i + 1, as in the autoregressive model that Dream was made from: `shifted_rows` says which row to
ask.

Speech comes in as codes, which are ordinary tokens, or as SenseVoice features: a frozen encoder
and a trained projector turn them into vectors that stand in place of token embeddings.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from omni_diffusion.backbone.attention import Segments, attend, rotary_tables, rotate
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.errors import OmniError
from omni_diffusion.tokenize.speech.sanm import AudioProjector, SenseVoiceConfig, SenseVoiceEncoder


class Inserts:
    """Vectors that take the place of token embeddings.

    Neither tuple nor dataclass: FSDP looks into those for tensors among a module's inputs, and
    takes their gradient for a sign that the module's own parameters have theirs. The projector,
    which made the vectors, gets its gradient only after that.

    Attributes:
        positions: tokens of the packed row that are replaced, int64 [n].
        vectors: what stands there instead, [n, hidden size].
    """

    def __init__(self, positions: Tensor, vectors: Tensor) -> None:
        self.positions, self.vectors = positions, vectors


class KeyValues:
    """Keys and values of a whole packed row, of which a pass may compute only some again.

    The tokens that are not computed keep the keys and values of an earlier pass. With full
    attention that is an approximation: they would change with the tokens around them.

    Attributes:
        rows: tokens of the whole row that the next pass computes, int64 [T].
    """

    def __init__(self, rows: Tensor) -> None:
        """Begin with a pass over these rows, which must be all."""
        self.rows = rows
        self._held: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put in what was computed at `rows`; give back the whole row's: [S, heads, size] each."""
        if layer not in self._held:
            self._held[layer] = (key, value)
        else:
            for held, computed in zip(self._held[layer], (key, value), strict=True):
                held.index_copy_(0, self.rows, computed)
        return self._held[layer]


class Attention(nn.Module):
    """Grouped-query attention inside each sample."""

    def __init__(self, config: DreamConfig, number: int) -> None:
        super().__init__()
        size = config.head_size
        self.number, self.head_size = number, size
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * size)
        self.k_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * size)
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        x: Tensor,
        tables: tuple[Tensor, Tensor],
        segments: Segments,
        cache: KeyValues | None = None,
    ) -> Tensor:
        """Map [T, hidden size] to the same."""
        query, key, value = (
            projection(x).unflatten(-1, (-1, self.head_size))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate(query, tables), rotate(key, tables)
        if cache is not None:
            key, value = cache.update(self.number, key, value)
        attended = attend(query, key, value, segments)
        mapped: Tensor = self.o_proj(attended.flatten(1))
        return mapped


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DreamConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [T, hidden size] to the same."""
        mapped: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return mapped


class Layer(nn.Module):
    """Pre-norm attention and feed-forward.

    Attributes:
        recompute: keep only the input, and compute the rest again for the gradient (activation
            checkpointing).
    """

    def __init__(self, config: DreamConfig, number: int) -> None:
        super().__init__()
        self.recompute = False
        self.self_attn = Attention(config, number)
        self.mlp = FeedForward(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        tables: tuple[Tensor, Tensor],
        segments: Segments,
        cache: KeyValues | None = None,
    ) -> Tensor:
        """Map [T, hidden size] to the same."""
        if self.recompute and torch.is_grad_enabled():
            again = partial(checkpoint, use_reentrant=False)
            recomputed: Tensor = again(self._compute, x, tables, segments, cache)
            return recomputed
        return self._compute(x, tables, segments, cache)

    def _compute(
        self,
        x: Tensor,
        tables: tuple[Tensor, Tensor],
        segments: Segments,
        cache: KeyValues | None,
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), tables, segments, cache)
        mapped: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return mapped


class _SpeechEncoder(nn.Module):
    """Holds the encoder one level down, as the published keys have it."""

    def __init__(self, config: SenseVoiceConfig) -> None:
        super().__init__()
        self.model = SenseVoiceEncoder(config)


class _Body(nn.Module):
    """Everything below the output layer, keys under `model.`."""

    def __init__(self, config: DreamConfig, speech: SenseVoiceConfig | None) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        if speech is not None:
            self.audio_model = _SpeechEncoder(speech).requires_grad_(False)
            self.audio_projection = AudioProjector(speech.output_size, config.hidden_size)


class Dream(nn.Module):
    """The language model.

    Attributes:
        config: its sizes.
        speech_config: sizes of the speech encoder, None where speech comes as codes only.
    """

    def __init__(self, config: DreamConfig, speech: SenseVoiceConfig | None = None) -> None:
        """Build with fresh weights; `initialise` or `backbone.checkpoint` give it better ones."""
        super().__init__()
        self.config, self.speech_config = config, speech
        self.model = _Body(config, speech)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        ids: Tensor,
        segments: Segments,
        inserts: Inserts | None = None,
        cache: KeyValues | None = None,
    ) -> Tensor:
        """Hidden states after the last norm, from which the output layer predicts.

        Args:
            ids: int64 [T], samples one after the other.
            segments: where they lie; their lengths add up to T.
            inserts: vectors in place of some embeddings.
            cache: keys and values of tokens that are not among the ids; `segments` then has other
                key lengths.

        Returns:
            [T, hidden size].

        Raises:
            OmniError: the lengths do not add up, or a sample is longer than the model allows.
        """
        if segments.total != len(ids):
            raise OmniError(f"segments cover {segments.total} tokens of a row of {len(ids)}")
        if (longest := max(segments.key_lengths)) > self.config.max_position_embeddings:
            raise OmniError(
                f"a sample of {longest} tokens is longer than the model's "
                f"{self.config.max_position_embeddings}"
            )
        x = self.model.embed_tokens(ids)
        if inserts is not None:
            x = x.index_copy(0, inserts.positions, inserts.vectors.to(x.dtype))
        tables = rotary_tables(segments.positions, self.config.head_size, self.config.rope_theta)
        for layer in self.model.layers:
            x = layer(x, tables, segments, cache)
        normed: Tensor = self.model.norm(x)
        return normed

    def logits(self, hidden: Tensor, low: int = 0, high: int | None = None) -> Tensor:
        """Scores of the ids `low` to `high` - 1 (all by default): [n, hidden] to [n, ids]."""
        return functional.linear(hidden, self.lm_head.weight[low:high])

    def embed_speech(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Vectors of recordings, to be inserted at their positions.

        Args:
            features: for each recording [frames, 560], from `SpeechFeatures.features`.

        Returns:
            For each, [frames + 4, hidden size]; gradients reach the projector only.

        Raises:
            OmniError: the model was built without a speech encoder.
        """
        if self.speech_config is None:
            raise OmniError("this model takes speech as codes: it has no speech encoder")
        with torch.no_grad():
            encoded = self.model.audio_model.model(features)
        projected: list[Tensor] = [self.model.audio_projection(rows) for rows in encoded]
        return projected


def shifted_rows(segments: Segments) -> Tensor:
    """For every token of a packed row, the output row that predicts it: int64 [T].

    The row before it; for the first token of a sample, which has none, its own row, as published
    generation does.
    """
    rows = torch.arange(segments.total, device=segments.device) - 1
    rows[segments.starts] += 1
    return rows


@torch.no_grad()
def initialise(model: Dream, seed: int) -> None:
    """Give a model fresh weights: normal with `initializer_range`, norms 1, biases 0.

    Each parameter draws from a generator keyed by its name, so adding a part moves no other.
    """
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.fill_(float(name.endswith("weight")))
        elif name.endswith("bias"):
            parameter.zero_()
        else:
            fresh = keyed_normal(name, tuple(parameter.shape), seed)
            put_whole(parameter, fresh * model.config.initializer_range)


def put_whole(target: Tensor, tensor: Tensor) -> None:
    """Copy a whole tensor into a parameter, or this process's part of it where it is sharded."""
    if isinstance(target, DTensor):
        # Every process has the whole, so nothing needs to be sent.
        tensor = distribute_tensor(
            tensor.to(target.device), target.device_mesh, target.placements, src_data_rank=None
        )
    target.copy_(tensor)


def keyed_normal(key: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal float32 numbers that depend on a name and a seed only."""
    generator = torch.Generator().manual_seed((zlib.crc32(key.encode()) ^ seed) & 0xFFFFFFFF)
    return torch.randn(shape, generator=generator)
