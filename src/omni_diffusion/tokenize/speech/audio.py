"""Sound files to float samples, and samples to another rate.

Decoding is done by libsndfile (wav, flac, mp3, ogg vorbis and opus), so nothing but the
`soundfile` wheel is needed. Resampling follows the definition behind torchaudio's
`transforms.Resample` defaults (a sinc low-pass under a Hann window), because the published speech
tokens were made with it; soxr's filter is another one (see `docs/decisions.md`).
"""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from omni_diffusion.errors import MediaError

ChannelPolicy = Literal["first", "mean"]
"""How several channels become one: `first` is what the published tokenizer does."""

MAX_DURATION_S = 3600.0
MAX_CHANNELS = 2
"""More channels are surround mixes, where channel 0 is seldom the voice: refused unless raised."""

CLIPPED_FROM = 0.999
SILENT_BELOW = 1e-4

# The low-pass filter of torchaudio's Resample: half width in zero crossings, and cut-off.
_ZERO_CROSSINGS = 6
_ROLLOFF = 0.99

_LENGTH_UNSTATED = 2**62  # libsndfile then reports its largest count, and cannot read on
_WAV_LENGTH_UNKNOWN = {0, 0x7FFFFFFF, 0xFFFFFFFF}
_OGG_PAGE_MAX_BYTES = 65_307
_OGG_LAST_PAGE = 4


@dataclass(frozen=True)
class Waveform:
    """Samples with their rate; whatever is in one has been checked.

    Attributes:
        samples: float32 `[channels, n]`, full scale 1.0, at least one sample, all finite.
        sample_rate_hz: samples a second.
        source: file, key or name that errors speak of.

    Raises:
        MediaError: the samples break one of the promises above.
    """

    samples: NDArray[np.float32]
    sample_rate_hz: int
    source: str = "waveform"

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or self.samples.dtype != np.float32:
            found = f"{self.samples.dtype} {list(self.samples.shape)}"
            raise MediaError(self.source, f"samples must be float32 [channels, n], not {found}")
        if self.samples.size == 0:
            raise MediaError(self.source, "holds no samples")
        if self.sample_rate_hz <= 0:
            raise MediaError(self.source, f"sample rate {self.sample_rate_hz} Hz")
        if not np.isfinite(self.samples).all():
            raise MediaError(self.source, "holds samples that are not finite (NaN or infinity)")

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return float(self.samples.shape[1] / self.sample_rate_hz)

    def channel(self, policy: ChannelPolicy) -> NDArray[np.float32]:
        """One channel `[n]`: the first, or the mean of all."""
        if policy == "first":
            return np.asarray(self.samples[0])
        return np.asarray(self.samples.mean(axis=0, dtype=np.float32))


@dataclass(frozen=True)
class AudioFacts:
    """What a listener would notice first about a recording.

    Attributes:
        duration_s: length in seconds.
        peak: largest absolute sample, full scale 1.0.
        rms_dbfs: root mean square in dB below full scale; minus infinity for digital silence.
        clipped_share: share of samples at full scale (0.999 and above).
        silent: no sample reaches -80 dBFS.
    """

    duration_s: float
    peak: float
    rms_dbfs: float
    clipped_share: float
    silent: bool


def describe(waveform: Waveform) -> AudioFacts:
    """Loudness, clipping and silence of a waveform, over all its channels."""
    level = np.abs(waveform.samples)
    rms = math.sqrt(float(np.mean(np.square(waveform.samples, dtype=np.float64))))
    return AudioFacts(
        duration_s=waveform.duration_s,
        peak=float(level.max()),
        rms_dbfs=20.0 * math.log10(rms) if rms > 0.0 else -math.inf,
        clipped_share=float(np.mean(level >= CLIPPED_FROM)),
        silent=bool(level.max() < SILENT_BELOW),
    )


def load_audio(
    source: bytes | str | os.PathLike[str],
    *,
    name: str | None = None,
    max_duration_s: float = MAX_DURATION_S,
    max_channels: int = MAX_CHANNELS,
) -> Waveform:
    """Decode a wav, flac, mp3 or ogg file held in memory or on disk.

    Truncation is found wherever the format records its own length: wav (unless the header says
    "unknown", as streaming writers do), flac, ogg, and mp3 with a Xing header. A bare mp3 stream
    has no length to compare with; one with a variable bit rate and no Xing header is decoded by
    libsndfile only as far as the length it estimates.

    Args:
        source: the file's bytes, or its path.
        name: what errors call the input; the path where there is one.
        max_duration_s: longer recordings are refused before they are decoded. Memory grows with
            the decoded size: four bytes a sample and channel.
        max_channels: recordings with more channels are refused.

    Returns:
        Samples as decoded: 16-bit files are scaled by 1/32768.

    Raises:
        MediaError: not audio, truncated, empty, not finite, too long or too many channels.
    """
    label = name or ("audio bytes" if isinstance(source, bytes) else str(source))
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_header(file, label, max_duration_s, max_channels)
            samples = file.read(dtype="float32", always_2d=True)
            expected, rate, kind, notes = file.frames, file.samplerate, file.format, file.extra_info
    except OSError as error:
        raise MediaError(label, f"cannot be read: {error}") from error
    except soundfile.LibsndfileError as error:
        raise MediaError(label, f"cannot be decoded: {error.error_string}") from error
    cut = len(samples) < expected or (kind == "WAV" and _wav_is_cut(notes))
    if cut or (kind == "OGG" and _ogg_is_cut(data)):
        raise MediaError(label, f"is truncated after {len(samples) / rate:.2f} s")
    return Waveform(samples.T, rate, label)


def _check_header(
    file: soundfile.SoundFile, label: str, max_duration_s: float, max_channels: int
) -> None:
    if file.frames >= _LENGTH_UNSTATED:
        raise MediaError(label, "its header states no length, as of a stream: store it as a file")
    duration_s = file.frames / file.samplerate
    if duration_s > max_duration_s:
        raise MediaError(label, f"lasts {duration_s:.1f} s, more than {max_duration_s:g} s")
    if file.channels > max_channels:
        raise MediaError(label, f"has {file.channels} channels, more than {max_channels}")


def _wav_is_cut(notes: str) -> bool:
    """Whether libsndfile's notes say that the data chunk promises more bytes than are there."""
    for line in notes.splitlines():
        words = line.split()  # data : 96000 (should be 67186)
        if words[:2] == ["data", ":"] and "(should" in words:
            promised, found = int(words[2]), int(words[-1].rstrip(")"))
            return promised > found and promised not in _WAV_LENGTH_UNKNOWN
    return False


def _ogg_is_cut(data: bytes) -> bool:
    """Whether the last Ogg page lacks the end-of-stream mark (RFC 3533, section 6)."""
    tail = data[-_OGG_PAGE_MAX_BYTES:]
    page = tail.rfind(b"OggS")
    return page < 0 or len(tail) < page + 6 or not tail[page + 5] & _OGG_LAST_PAGE


@lru_cache(maxsize=32)
def _polyphase(step_in: int, step_out: int) -> tuple[Tensor, tuple[int, ...]]:
    """Filter taps per output phase, and where in the input each phase begins.

    Every `step_in` input samples give `step_out` output samples, one a phase. Only taps inside
    the window are kept, so an odd pair of rates costs kilobytes, not gigabytes.

    Returns:
        Taps float32 `[step_out, n_taps]`; first input sample per phase, negative ones being
        before the block.
    """
    cutoff = min(step_in, step_out) * _ROLLOFF
    reach = _ZERO_CROSSINGS * step_in / cutoff
    centre = np.arange(step_out) * (step_in / step_out)
    first = np.ceil(centre - reach).astype(np.int64)
    position = first[:, None] + np.arange(math.floor(2 * reach) + 1)
    crossings = np.clip(
        (position - centre[:, None]) * (cutoff / step_in), -_ZERO_CROSSINGS, _ZERO_CROSSINGS
    )
    window = np.cos(crossings * (np.pi / _ZERO_CROSSINGS / 2)) ** 2
    taps = np.sinc(crossings) * window * (cutoff / step_in)
    return torch.from_numpy(taps.astype(np.float32)), tuple(int(f) for f in first)


def resampled_length(n_samples: int, from_hz: int, to_hz: int) -> int:
    """Samples that `n_samples` become at another rate (rounded up)."""
    return -(-n_samples * to_hz // from_hz)


def resample(
    samples: NDArray[np.float32],
    from_hz: int,
    to_hz: int,
    start: int = 0,
    stop: int | None = None,
) -> NDArray[np.float32]:
    """Samples at another rate, as torchaudio's `transforms.Resample` computes them by default.

    Any range of the output can be asked for by itself and equals that range of the whole, so an
    hour of sound is resampled in pieces without seams.

    Args:
        samples: float32 `[n]`.
        from_hz: rate of `samples`.
        to_hz: rate wanted.
        start: first output sample wanted.
        stop: end of the output wanted (exclusive); the whole by default.

    Returns:
        float32 `[stop - start]`.
    """
    total = resampled_length(len(samples), from_hz, to_hz)
    stop = total if stop is None else min(stop, total)
    if from_hz == to_hz:
        return samples[start:stop]
    if start >= stop:
        return samples[:0]
    common = math.gcd(from_hz, to_hz)
    step_in, step_out = from_hz // common, to_hz // common
    taps, first = _polyphase(step_in, step_out)
    blocks = range(start // step_out, -(-stop // step_out))
    lowest = min(first)
    begin = blocks.start * step_in + lowest
    end = (blocks.stop - 1) * step_in + max(first) + taps.shape[1]
    inside = samples[max(begin, 0) : max(end, 0)]
    left = max(-begin, 0)
    padded = np.pad(inside, (left, max(end - begin - left - len(inside), 0)))
    row = torch.from_numpy(padded)[None, None]
    out = torch.empty(len(blocks), step_out)
    for phase in range(step_out):
        used = row[..., first[phase] - lowest :]
        out[:, phase] = F.conv1d(used, taps[phase][None, None], stride=step_in)[0, 0, : len(blocks)]
    offset = blocks.start * step_out
    return np.asarray(out.numpy().reshape(-1)[start - offset : stop - offset])
