"""Whisper's log-mel features, equal to transformers' `WhisperFeatureExtractor`.

128 mel bands on Slaney's scale, windows of 25 ms every 10 ms at 16 kHz, an 80 dB range below the
loudest value of the segment (Radford et al. 2022, section 2.2).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

SAMPLE_RATE_HZ = 16_000
N_FFT = 400
HOP_LENGTH = 160
N_MELS = 128
N_BINS = N_FFT // 2 + 1

# Slaney's scale (Auditory Toolbox): linear up to 1 kHz, logarithmic above.
_LINEAR_HZ_PER_MEL = 200.0 / 3.0
_LOG_FROM_HZ = 1000.0
_LOG_FROM_MEL = _LOG_FROM_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0

_POWER_FLOOR = 1e-10
_RANGE_LOG10 = 8.0


def _mel_edges_hz(n_mels: int, top_hz: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Corner frequencies of the triangular bands: `n_mels + 2` values from 0 to `top_hz`."""
    top_mel = _LOG_FROM_MEL + np.log(top_hz / _LOG_FROM_HZ) / _LOG_STEP
    mels = np.linspace(0.0, top_mel, n_mels + 2)
    bent = _LOG_FROM_HZ * np.exp(_LOG_STEP * (mels - _LOG_FROM_MEL))
    return np.where(mels < _LOG_FROM_MEL, mels * _LINEAR_HZ_PER_MEL, bent)


@lru_cache(maxsize=1)
def mel_filters() -> Tensor:
    """Triangular bands of equal area, float32 `[128, 201]`; do not write to it."""
    edges = _mel_edges_hz(N_MELS, SAMPLE_RATE_HZ / 2)
    bins = np.linspace(0.0, SAMPLE_RATE_HZ / 2, N_BINS)
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((bins - low) / (mid - low), (high - bins) / (high - mid)).clip(min=0.0)
    return torch.from_numpy((triangles * 2.0 / (high - low)).astype(np.float32))


def log_mel(samples: Tensor) -> Tensor:
    """Log-mel features of one segment.

    Args:
        samples: float32 `[n]` at 16 kHz, n a multiple of 160 and above 200.

    Returns:
        float32 `[128, n / 160]`, about -1 to 1.5, on the device of `samples`.
    """
    window = torch.hann_window(N_FFT, device=samples.device)
    spectrum = torch.stft(samples, N_FFT, HOP_LENGTH, window=window, return_complex=True)
    # The transform also centres a window on the end of the segment; Whisper leaves it out.
    power = spectrum[:, :-1].abs() ** 2
    logs = (mel_filters().to(samples.device) @ power).clamp(min=_POWER_FLOOR).log10()
    logs = torch.maximum(logs, logs.max() - _RANGE_LOG10)
    return (logs + 4.0) / 4.0


def power_of(features: Tensor) -> Tensor:
    """Mel power that `log_mel` made its features from (inverse of the last two steps)."""
    return torch.pow(10.0, features * 4.0 - 4.0)
