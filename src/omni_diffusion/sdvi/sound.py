"""What can be measured in a sound without understanding it, and how it is finished and packed."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from omni_diffusion.errors import MediaError
from omni_diffusion.sdvi.engines.engine import Speech

FRAME_S = 0.01
"""Levels are taken over frames of this length."""

CLIP_VERSION = 1
"""Raised whenever the same samples are measured, finished or packed otherwise than before."""

_FLOOR_DBFS = -120.0
_SILENCE_BELOW_DB = 40.0
"""A frame that is so much quieter than the loud ones (95th percentile) counts as silence."""

_CLIPPED = 0.999
_EDGE_S = 0.1
_LEVEL_DBFS = -23.0
_PEAK = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class SoundMeasures:
    """Values of one sound.

    Attributes:
        duration_s: from first to last sample.
        spoken_s: from the first to the last frame that is not silent.
        peak: highest absolute sample.
        clipped_share: share of samples at or above 0.999.
        rms_dbfs: level of the frames that are not silent.
        leading_s, trailing_s: silence at the ends.
        silence_s: longest silence in between.
        end_db: level of the last 20 ms relative to `rms_dbfs`: near 0 where speech is cut off.
        noise_db: level of the quietest tenth of the frames relative to `rms_dbfs`.
    """

    duration_s: float
    spoken_s: float
    peak: float
    clipped_share: float
    rms_dbfs: float
    leading_s: float
    trailing_s: float
    silence_s: float
    end_db: float
    noise_db: float


def measure(speech: Speech) -> SoundMeasures:
    """Measure a sound.

    Raises:
        MediaError: it is empty, not one channel, or holds values that are not finite.
    """
    check(speech)
    return _measured(speech, _levels(speech))


def _measured(speech: Speech, levels: NDArray[np.floating[Any]]) -> SoundMeasures:
    samples = speech.samples
    magnitudes = np.abs(samples)
    loud = np.flatnonzero(_is_loud(levels))
    active = _decibels(float(np.mean(10.0 ** (levels[loud] / 10.0)))) if len(loud) else _FLOOR_DBFS
    first, last = (int(loud[0]), int(loud[-1])) if len(loud) else (0, -1)
    gaps = np.diff(loud) - 1
    return SoundMeasures(
        duration_s=speech.duration_s,
        spoken_s=(last - first + 1) * FRAME_S,
        peak=float(magnitudes.max()),
        clipped_share=float((magnitudes >= _CLIPPED).mean()),
        rms_dbfs=active,
        leading_s=first * FRAME_S,
        trailing_s=(len(levels) - 1 - last) * FRAME_S,
        silence_s=float(gaps.max()) * FRAME_S if len(gaps) else 0.0,
        end_db=float(levels[-2:].max()) - active,
        noise_db=float(np.percentile(levels, 10)) - active,
    )


def check(speech: Speech) -> NDArray[np.float32]:
    """The samples, if they are sound at all.

    Raises:
        MediaError: see `measure`.
    """
    samples = speech.samples
    if samples.ndim != 1 or samples.dtype != np.float32:
        form = f"{samples.dtype}{list(samples.shape)}"
        raise MediaError("speech", f"is {form}, not float32[n] of one channel")
    if not len(samples):
        raise MediaError("speech", "is empty")
    if not np.isfinite(samples).all():
        raise MediaError("speech", "holds samples that are not finite")
    return samples


def finish(speech: Speech) -> Speech:
    """Speech as it goes into a corpus: 0.1 s of silence at the ends, -23 dBFS, no clipping.

    Raises:
        MediaError: see `measure`.
    """
    check(speech)
    return _finished(speech, _levels(speech))


def _finished(speech: Speech, levels: NDArray[np.floating[Any]]) -> Speech:
    loud = np.flatnonzero(_is_loud(levels))
    if not len(loud):
        return speech
    hop = FRAME_S * speech.sample_rate_hz
    margin = round(_EDGE_S * speech.sample_rate_hz)
    start = max(0, round(loud[0] * hop) - margin)
    end = min(len(speech.samples), round((loud[-1] + 1) * hop) + margin)
    samples = speech.samples[start:end]
    level = _decibels(float(np.mean(10.0 ** (levels[loud] / 10.0))))
    gain = 10.0 ** ((_LEVEL_DBFS - level) / 20.0)
    gain = min(gain, _PEAK / max(float(np.abs(samples).max()), 1e-6))
    return Speech((samples * np.float32(gain)).astype(np.float32), speech.sample_rate_hz)


@dataclass(frozen=True, slots=True)
class Clip:
    """A finished sound: 16-bit FLAC, its length, and what was measured before it was finished."""

    flac: bytes
    duration_s: float
    measures: SoundMeasures

    def decode(self) -> Speech:
        """The samples of the FLAC.

        Raises:
            MediaError: it is damaged.
        """
        try:
            samples, rate_hz = soundfile.read(io.BytesIO(self.flac), dtype="float32")
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise MediaError("speech", f"cannot be decoded: {error}") from error
        return Speech(np.asarray(samples, np.float32), int(rate_hz))

    def to_bytes(self) -> bytes:
        """Measures and FLAC in one."""
        head = json.dumps({"duration_s": self.duration_s, "measures": asdict(self.measures)})
        return head.encode() + b"\n" + self.flac

    @classmethod
    def from_bytes(cls, data: bytes) -> Clip:
        """The inverse of `to_bytes`."""
        head, _, flac = data.partition(b"\n")
        value = json.loads(head)
        return cls(flac, value["duration_s"], SoundMeasures(**value["measures"]))


def make_clip(speech: Speech) -> Clip:
    """Measure, finish and pack a sound; equal samples give equal bytes (for one libsndfile).

    Raises:
        MediaError: see `measure`.
    """
    check(speech)
    levels = _levels(speech)
    measures, finished = _measured(speech, levels), _finished(speech, levels)
    samples = np.clip(np.rint(finished.samples * 32768.0), -32768, 32767).astype(np.int16)
    sink = io.BytesIO()
    soundfile.write(sink, samples, finished.sample_rate_hz, format="FLAC", subtype="PCM_16")
    return Clip(sink.getvalue(), finished.duration_s, measures)


def _levels(speech: Speech) -> NDArray[np.floating[Any]]:
    """Level in dBFS of each whole frame; of the whole sound where it is shorter than one."""
    length = min(round(FRAME_S * speech.sample_rate_hz), len(speech.samples))
    count = len(speech.samples) // length
    frames = speech.samples[: count * length].astype(np.float64).reshape(count, length)
    power = np.maximum(np.mean(frames**2, axis=1), 10.0 ** (_FLOOR_DBFS / 10.0))
    levels: NDArray[np.floating[Any]] = 10.0 * np.log10(power)
    return levels


def _is_loud(levels: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    threshold = float(np.percentile(levels, 95)) - _SILENCE_BELOW_DB
    loud: NDArray[np.bool_] = (levels >= threshold) & (levels > _FLOOR_DBFS)
    return loud


def _decibels(power: float) -> float:
    return float(10.0 * np.log10(max(power, 10.0 ** (_FLOOR_DBFS / 10.0))))
