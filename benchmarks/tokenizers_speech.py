"""CPU cost of encoding speech at the published sizes, ours against the published way.

Both sides share one encoder with random weights and the same clips. The published way pads every
clip to the longest of the call before the features are taken, gives attention a dense
frames x frames mask, and keeps the codes of the unpadded part (GLM-4-Voice,
`extract_speech_token`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from omni_diffusion.tokenize.speech.mel import SAMPLE_RATE_HZ, log_mel
from omni_diffusion.tokenize.speech.tokenizer import SpeechTokenizer
from omni_diffusion.tokenize.speech.whisper_vq import (
    EncoderLayer,
    WhisperVQConfig,
    WhisperVQEncoder,
)

PUBLISHED = WhisperVQConfig(
    num_mel_bins=128,
    d_model=1280,
    encoder_attention_heads=20,
    encoder_ffn_dim=5120,
    max_source_positions=1500,
    quantize_position=16,
    pooling_position=16,
    pooling_kernel_size=4,
    quantize_vocab_size=16384,
    quantize_causal_block_size=200,
)
LONGEST_S, SHORTEST_S = 15.0, 1.0


def make_clips(n_clips: int) -> list[Tensor]:
    """Clips of evenly spread lengths from 1 to 15 s: sweeps in noise, at 16 kHz."""
    rng = np.random.default_rng(0)
    clips = []
    for duration_s in np.linspace(SHORTEST_S, LONGEST_S, n_clips):
        n = int(duration_s * SAMPLE_RATE_HZ) + 37
        sweep = np.sin(np.cumsum(0.3 + 0.25 * np.sin(np.arange(n) / 3000.0)))
        clips.append(torch.from_numpy((0.2 * sweep + 0.02 * rng.standard_normal(n)).astype("f4")))
    return clips


@torch.inference_mode()
def encode_published_way(encoder: WhisperVQEncoder, clips: list[Tensor]) -> list[Tensor]:
    """One batch padded to its longest clip, attention under a dense mask."""
    block, heads = PUBLISHED.quantize_causal_block_size, PUBLISHED.encoder_attention_heads
    n_codes = [-(-len(clip) // 1280) for clip in clips]
    padded = [F.pad(clip, (0, max(n_codes) * 1280 - len(clip))) for clip in clips]
    hidden = encoder.stem(torch.stack([log_mel(clip) for clip in padded]))
    positions = torch.arange(hidden.shape[1])
    seen = positions // block <= (positions // block)[:, None]
    valid = positions < torch.tensor([-(-len(clip) // 320) for clip in clips])[:, None]
    mask = torch.zeros(len(clips), 1, len(positions), len(positions))
    mask.masked_fill_(~(seen & valid[:, None, :])[:, None], torch.finfo(torch.float32).min)
    for layer in cast("list[EncoderLayer]", list(encoder.layers)):
        attention, normed = layer.self_attn, layer.self_attn_layer_norm(hidden)
        query, key, value = (
            linear(normed).unflatten(-1, (heads, -1)).transpose(1, 2)
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        hidden = hidden + attention.out_proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(hidden))))
    pooled = F.avg_pool1d(hidden.transpose(1, 2), PUBLISHED.pooling_kernel_size).transpose(1, 2)
    codes = encoder.quantize(pooled).to(torch.int32)
    return [row[:count] for row, count in zip(codes, n_codes, strict=True)]


def cpu_seconds(work: Callable[[], list[Tensor]]) -> tuple[float, list[Tensor]]:
    """Processor time of one call, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def run(n_clips: int = 8, repeats: int = 3) -> dict[str, Any]:
    """Measure both sides, interleaved, on one thread.

    Args:
        n_clips: clips of 1 to 15 s; 3 make a short run.
        repeats: rounds; the medians are reported.

    Returns:
        Seconds of speech, CPU seconds per second of speech on both sides, their ratio, and the
        share of equal codes.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = WhisperVQEncoder(PUBLISHED).eval().requires_grad_(False)
    tokenizer, clips = SpeechTokenizer(encoder, name="glm4voice-random"), make_clips(n_clips)
    pairs = [(clip, SAMPLE_RATE_HZ) for clip in clips]
    speech_s = sum(map(len, clips)) / SAMPLE_RATE_HZ
    ours, published = [], []
    for _ in range(repeats):
        ours_s, ours_codes = cpu_seconds(lambda: tokenizer.encode(pairs))
        published_s, published_codes = cpu_seconds(lambda: encode_published_way(encoder, clips))
        ours.append(ours_s / speech_s)
        published.append(published_s / speech_s)
    torch.set_num_threads(threads)
    equal = (torch.cat(ours_codes) == torch.cat(published_codes)).float().mean()
    return {
        "speech_s": round(speech_s, 2),
        "ours_cpu_s_per_s": round(statistics.median(ours), 4),
        "published_way_cpu_s_per_s": round(statistics.median(published), 4),
        "speedup": round(statistics.median(published) / statistics.median(ours), 3),
        "equal_codes_share": float(equal),
    }
