"""A small decoder for demonstrations: codes to log-mel by a few convolutions, then Griffin-Lim.

It exists so that a freshly installed package can turn codes into sound without downloads. It is no
part of the published system, whose decoder is a flow-matching model with a vocoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_diffusion.tokenize.speech.mel import (
    HOP_LENGTH,
    N_FFT,
    N_MELS,
    SAMPLE_RATE_HZ,
    mel_filters,
    power_of,
)

MEL_STEPS_PER_CODE = 8
SAMPLES_PER_CODE = MEL_STEPS_PER_CODE * HOP_LENGTH

_MOMENTUM = 0.99
_PHASE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class MelDecoderConfig:
    """Sizes of the code-to-mel network.

    Attributes:
        codebook_size: codes that can be decoded.
        code_width: width of the codebook rows that come in.
        width: channels inside.
        n_blocks: residual blocks at each of the two rates (12.5 and 50 a second).
    """

    codebook_size: int
    code_width: int
    width: int
    n_blocks: int


class ResidualBlock(nn.Module):
    """Two convolutions over three steps, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.inner = nn.Conv1d(width, width, kernel_size=3, padding=1)
        self.outer = nn.Conv1d(width, width, kernel_size=3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map `[batch, width, steps]` to the same shape."""
        return hidden + self.outer(F.gelu(self.inner(self.norm(hidden))))  # type: ignore[no-any-return]


class MelDecoder(nn.Module):
    """Codebook rows `[batch, codes, code_width]` to log-mel `[batch, 128, 8 * codes]`."""

    def __init__(self, config: MelDecoderConfig) -> None:
        super().__init__()
        width, n_blocks = config.width, config.n_blocks
        self.enter = nn.Conv1d(config.code_width, width, kernel_size=1)
        self.coarse = nn.Sequential(*(ResidualBlock(width) for _ in range(n_blocks)))
        self.finer = nn.ConvTranspose1d(width, width, kernel_size=4, stride=4)
        self.fine = nn.Sequential(*(ResidualBlock(width) for _ in range(n_blocks)))
        self.leave = nn.ConvTranspose1d(width, N_MELS, kernel_size=2, stride=2)

    def forward(self, rows: Tensor) -> Tensor:
        """Predict the features that `mel.log_mel` would give."""
        hidden = self.coarse(self.enter(rows.transpose(1, 2)))
        return self.leave(self.fine(self.finer(hidden)))  # type: ignore[no-any-return]


@lru_cache(maxsize=1)
def _mel_to_bins() -> Tensor:
    """Pseudo-inverse of the mel bands, float32 `[201, 128]`."""
    inverse: Tensor = torch.linalg.pinv(mel_filters().double())
    return inverse.float()


def griffin_lim(magnitude: Tensor, n_iterations: int = 48) -> Tensor:
    """Sound whose spectrum has about the given magnitude.

    The phase is found by projecting back and forth with momentum (Perraudin et al. 2013), starting
    from seeded random phases, so equal input gives equal sound.

    Args:
        magnitude: float32 `[201, t]`.
        n_iterations: rounds of inverse and forward transform.

    Returns:
        float32 `[160 * t]`, at 16 kHz.
    """
    window = torch.hann_window(N_FFT)
    # The forward transform centres one more window on the end.
    target = F.pad(magnitude, (0, 1), mode="replicate")
    length = magnitude.shape[1] * HOP_LENGTH

    def sound(spectrum: Tensor) -> Tensor:
        return torch.istft(spectrum, N_FFT, HOP_LENGTH, window=window, length=length)

    generator = torch.Generator().manual_seed(_PHASE_SEED)
    phase = torch.rand(target.shape, generator=generator) * (2.0 * torch.pi)
    spectrum = torch.polar(target, phase)
    previous = torch.zeros_like(spectrum)
    for _ in range(n_iterations):
        rebuilt = torch.stft(sound(spectrum), N_FFT, HOP_LENGTH, window=window, return_complex=True)
        ahead = rebuilt + _MOMENTUM * (rebuilt - previous)
        spectrum = torch.polar(target, ahead.angle())
        previous = rebuilt
    return sound(spectrum)


class GriffinLimDecoder:
    """The demo tokenizer's `SpeechDecoder`: codes to a 16 kHz waveform, deterministic.

    Attributes:
        sample_rate_hz: of the sound it makes.
        fingerprint: names weights and method.
    """

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, codebook: Tensor, network: MelDecoder, fingerprint: str) -> None:
        """Take the encoder's codebook `[codebook_size, width]` and a trained network."""
        self._codebook, self._network = codebook.cpu().float(), network.eval()
        self.fingerprint = fingerprint

    @torch.inference_mode()
    def log_mel(self, codes: Tensor) -> Tensor:
        """Features `[128, 8 * n]` predicted for int codes `[n]`."""
        return self._network(self._codebook[codes.long()][None])[0]  # type: ignore[no-any-return]

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Sound of int codes `[n]`: float32 `[1280 * n]`."""
        power = (_mel_to_bins() @ power_of(self.log_mel(codes))).clamp(min=0.0)
        return griffin_lim(power.sqrt())
