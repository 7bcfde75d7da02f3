"""SenseVoice's front end: Kaldi log mel energies, stacked and normalised.

1. 80 log mel energies every 10 ms, computed as Kaldi's `compute-fbank-feats` does
   (25 ms frames that lie wholly inside the recording, samples on the 16-bit scale).
2. Low frame rate: seven neighbouring frames become one of 560 numbers, every 60 ms.
3. Shift and scale by the statistics of the published `am.mvn`.

FunASR's front end adds noise of one 16-bit step (dither) before step 1; here there is none, so
equal recordings give equal features.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from omni_diffusion.errors import MediaError, WeightsError

SAMPLE_RATE_HZ = 16_000
FRAME_LENGTH = 400
HOP_LENGTH = 160
"""Samples a frame and samples between frames: 25 ms and 10 ms."""
N_FFT = 512
N_MELS = 80
LOWEST_HZ, HIGHEST_HZ = 20.0, 8000.0
PREEMPHASIS = 0.97
FULL_SCALE = 32_768.0
STACKED_FRAMES, STACK_HOP = 7, 6
FEATURE_SIZE = N_MELS * STACKED_FRAMES
BLOCK_FRAMES = 8192
"""Frames transformed at once, so that memory does not grow with the recording's spectra."""


@dataclass(frozen=True)
class Normalisation:
    """Statistics of `am.mvn`: `(features + shift) * scale`, both float32 [560]."""

    shift: Tensor
    scale: Tensor

    @classmethod
    def from_file(cls, path: Path) -> Normalisation:
        """Read a Kaldi text network of the parts Splice, AddShift and Rescale.

        Raises:
            WeightsError: the file cannot be read or is not exactly that network of 560 numbers.
        """
        try:
            text = " ".join(path.read_text(encoding="ascii").split())
        except (OSError, UnicodeDecodeError) as error:
            raise WeightsError(f"{path}: cannot be read as statistics: {error}") from error
        match = _STATISTICS.fullmatch(text)
        if match is None:
            raise WeightsError(
                f"{path}: is not a Kaldi network of <Splice>, <AddShift> and <Rescale> over "
                f"{FEATURE_SIZE} features"
            )
        return cls(_vector(match, "AddShift", path), _vector(match, "Rescale", path))


_SIZES = f"{FEATURE_SIZE} {FEATURE_SIZE}"
_STATISTICS = re.compile(
    rf"<Nnet> <Splice> {_SIZES} \[ 0 \]"
    rf" <AddShift> {_SIZES} <LearnRateCoef> 0 \[(?P<AddShift>[^]]*)\]"
    rf" <Rescale> {_SIZES} <LearnRateCoef> 0 \[(?P<Rescale>[^]]*)\]"
    r" </Nnet>"
)


def _vector(match: re.Match[str], name: str, path: Path) -> Tensor:
    """The numbers of one part of `am.mvn`."""
    try:
        numbers = torch.tensor([float(word) for word in match[name].split()])
    except ValueError as error:
        raise WeightsError(f"{path}: <{name}>: {error}") from error
    if len(numbers) != FEATURE_SIZE or not numbers.isfinite().all():
        raise WeightsError(
            f"{path}: <{name}> holds {len(numbers)} numbers, expected {FEATURE_SIZE} finite ones"
        )
    return numbers


@lru_cache(maxsize=1)
def mel_filters() -> Tensor:
    """Triangles on Kaldi's mel scale, float64 [257, 80]; the highest frequency has no weight."""

    def mel(hertz: Tensor | float) -> Tensor:
        return 1127.0 * torch.log1p(torch.as_tensor(hertz, dtype=torch.float64) / 700.0)

    low, high = float(mel(LOWEST_HZ)), float(mel(HIGHEST_HZ))
    edges = torch.linspace(low, high, N_MELS + 2, dtype=torch.float64)
    bins = torch.arange(N_FFT // 2 + 1, dtype=torch.float64) * (SAMPLE_RATE_HZ / N_FFT)
    position = mel(bins)[:, None]
    rising = (position - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - position) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


def log_mel(waveform: Tensor) -> Tensor:
    """Kaldi log mel energies of a recording.

    Args:
        waveform: float [samples] at 16 kHz within plus or minus 1, at least 400 samples.

    Returns:
        float32 [1 + (samples - 400) // 160, 80], natural logarithms of energies on the 16-bit
        scale, not below log(2**-23).

    Raises:
        MediaError: the waveform has another shape or type, is too short or is not finite.
    """
    if waveform.dim() != 1 or not waveform.is_floating_point():
        kind = f"{waveform.dtype} {list(waveform.shape)}"
        raise MediaError("waveform", f"expected floating-point samples [n], not {kind}")
    if len(waveform) < FRAME_LENGTH:
        raise MediaError(
            "waveform", f"{len(waveform)} samples at 16 kHz; one frame takes {FRAME_LENGTH}"
        )
    if not waveform.isfinite().all():
        raise MediaError("waveform", "has samples that are not finite")
    # float64 throughout: the quietest bands are differences of nearly equal numbers.
    frames = (waveform.double() * FULL_SCALE).unfold(0, FRAME_LENGTH, HOP_LENGTH)
    hamming = torch.hamming_window(
        FRAME_LENGTH, periodic=False, dtype=torch.float64, device=waveform.device
    )
    filters = mel_filters().to(waveform.device)
    floor = torch.finfo(torch.float32).eps
    energies = []
    for block in torch.split(frames, BLOCK_FRAMES):
        centred = block - block.mean(dim=1, keepdim=True)
        previous = functional.pad(centred[:, None], (1, 0), mode="replicate")[:, 0, :-1]
        spectrum = torch.fft.rfft((centred - PREEMPHASIS * previous) * hamming, n=N_FFT)
        energies.append(spectrum.abs().square() @ filters)
    return torch.cat(energies).clamp(min=floor).log().float()


def stack_frames(frames: Tensor) -> Tensor:
    """Low frame rate: every sixth frame with three neighbours on either side.

    The first frame stands in for what lies before it and the last for what lies after.

    Args:
        frames: [frames, bands].

    Returns:
        [ceil(frames / 6), 7 * bands].
    """
    first = torch.arange(0, len(frames), STACK_HOP, device=frames.device)
    offset = torch.arange(STACKED_FRAMES, device=frames.device) - STACKED_FRAMES // 2
    index = (first[:, None] + offset).clamp(0, len(frames) - 1)
    return frames[index].flatten(1)


def sensevoice_features(waveform: Tensor, normalisation: Normalisation) -> Tensor:
    """Input of SenseVoice's encoder.

    Args:
        waveform: float [samples] at 16 kHz within plus or minus 1, at least 400 samples.
        normalisation: statistics, on the waveform's device.

    Returns:
        float32 [ceil(frames / 6), 560], one row for 60 ms.

    Raises:
        MediaError: the waveform cannot be used.
    """
    stacked = stack_frames(log_mel(waveform))
    return (stacked + normalisation.shift) * normalisation.scale
