"""Pictures and sounds as `data:` URIs, small enough for a page of many."""

from __future__ import annotations

import base64
import io

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from omni_diffusion.errors import MediaError

_WEBP_QUALITY = 82
_MP3_COMPRESSION = 0.5
"""Of libsndfile, 0 to 1: about 3.5 KB a second of 16 kHz speech."""

_BASE64 = 4 / 3
_SHORTEST_S = 1.0
"""A sound that does not fit is cut, but not below this."""

_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


class Budget:
    """Bytes that the media of a page may take, dealt out fairly.

    Every sample may use its part of what is left, so what one saves is there for the next ones.
    """

    def __init__(self, n_bytes: float, samples: int) -> None:
        self._left, self._samples = n_bytes, samples
        self._part = 0.0

    def next_sample(self) -> None:
        """The media that follow belong to another sample."""
        self._part = self._left / max(1, self._samples)
        self._samples -= 1

    @property
    def room(self) -> float:
        """Bytes of base64 that the next medium may take."""
        return self._part

    def take(self, uri: str) -> None:
        """Count what was used."""
        self._part -= len(uri)
        self._left -= len(uri)


def picture_uri(picture: Image.Image, side: int = 0) -> str:
    """A picture as WebP.

    Args:
        picture: any size.
        side: make its longer side no longer than so many pixels; 0 leaves it.
    """
    if side:
        picture = picture.copy()
        picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.convert("RGB").save(file, "WEBP", quality=_WEBP_QUALITY, method=4)
    return _uri("image/webp", file.getvalue())


def sound_uri(samples: NDArray[np.float32], sample_rate_hz: int, room: float) -> tuple[str, float]:
    """A sound as MP3, which every browser plays.

    Args:
        samples: float32 [n], -1 to 1.
        sample_rate_hz: of the sound.
        room: bytes that the URI may take; a longer sound is cut.

    Returns:
        The URI, and the seconds that it holds.

    Raises:
        MediaError: there is no room for a second of it, or MP3 does not know the rate.
    """
    if sample_rate_hz not in _MP3_RATES:
        raise MediaError("the sound", f"MP3 does not know {sample_rate_hz} samples a second")
    data = _mp3(samples, sample_rate_hz)
    while len(data) * _BASE64 > room:
        # A little less than what fits: the rate of bits varies along the sound.
        keep = int(len(samples) * 0.95 * room / (len(data) * _BASE64))
        if keep < _SHORTEST_S * sample_rate_hz:
            raise MediaError("the sound", "the report has no room left for it (--max-mb)")
        samples = samples[:keep]
        data = _mp3(samples, sample_rate_hz)
    return _uri("audio/mpeg", data), len(samples) / sample_rate_hz


def _mp3(samples: NDArray[np.float32], sample_rate_hz: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate_hz, format="MP3", compression_level=_MP3_COMPRESSION)
    return file.getvalue()


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
