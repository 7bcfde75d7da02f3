"""Recordings are decoded exactly or refused by name and reason; rates change without seams."""

import io
import math

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.errors import MediaError
from omni_diffusion.tokenize.speech.audio import (
    Waveform,
    describe,
    load_audio,
    resample,
    resampled_length,
)

RATE = 16_000
TONE = (0.5 * np.sin(np.arange(2 * RATE) * 0.05)).astype(np.float32)


def encoded(samples: np.ndarray, container: str, subtype: str, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype)
    return buffer.getvalue()


FORMATS = [
    ("WAV", "PCM_16", 1e-4),
    ("WAV", "FLOAT", 0.0),
    ("FLAC", "PCM_16", 1e-4),
    ("OGG", "VORBIS", 0.05),
    ("MP3", "MPEG_LAYER_III", 0.05),
]


@pytest.mark.parametrize(("container", "subtype", "tolerance"), FORMATS)
def test_every_format_of_the_contract_decodes(
    container: str, subtype: str, tolerance: float, tmp_path
) -> None:
    """A sound comes back from memory and from disk alike, as loud as it went in."""
    data = encoded(TONE, container, subtype)
    waveform = load_audio(data)
    assert waveform.sample_rate_hz == RATE
    assert waveform.samples.shape[0] == 1
    assert waveform.samples.shape[1] >= len(TONE)
    assert math.isclose(describe(waveform).peak, 0.5, abs_tol=max(tolerance, 1e-3))
    (tmp_path / "a").write_bytes(data)
    np.testing.assert_array_equal(load_audio(tmp_path / "a").samples, waveform.samples)
    if tolerance < 0.01:
        np.testing.assert_allclose(waveform.samples[0], TONE, atol=tolerance)


@pytest.mark.parametrize(
    ("container", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")]
)
@given(kept=st.floats(0.0, 0.98))
def test_a_cut_file_is_refused(container: str, subtype: str, kept: float) -> None:
    """A download that broke off never passes as a shorter recording."""
    data = encoded(TONE, container, subtype)
    with pytest.raises(MediaError, match=r"clip-7: (is truncated|cannot be decoded|holds no)"):
        load_audio(data[: int(len(data) * kept)], name="clip-7")


def test_a_cut_mp3_is_refused_where_its_header_tells() -> None:
    buffer = io.BytesIO()
    soundfile.write(
        buffer, TONE, RATE, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE"
    )
    data = buffer.getvalue()
    with pytest.raises(MediaError, match="truncated"):
        load_audio(data[: len(data) * 2 // 3])


def test_a_streamed_wav_of_unknown_length_is_accepted() -> None:
    """Writers that cannot seek leave the length open; that is no damage."""
    data = bytearray(encoded(TONE, "WAV", "PCM_16"))
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    assert load_audio(bytes(data)).samples.shape == (1, len(TONE))


def test_a_streamed_flac_is_refused_with_the_way_out() -> None:
    """Such a flac cannot be read by libsndfile; the error tells what to do instead."""
    data = bytearray(encoded(TONE, "FLAC", "PCM_16"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    with pytest.raises(MediaError, match="states no length"):
        load_audio(bytes(data))


@pytest.mark.parametrize("data", [b"", b"RIFF", b"<html>not found</html>" * 50])
def test_what_is_not_audio_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(MediaError, match="clip-7: cannot be decoded"):
        load_audio(data, name="clip-7")


def test_limits_are_named_before_anything_is_decoded(tmp_path) -> None:
    with pytest.raises(MediaError, match=r"lasts 2\.0 s, more than 1 s"):
        load_audio(encoded(TONE, "WAV", "PCM_16"), max_duration_s=1.0)
    surround = encoded(np.stack([TONE] * 8, axis=1), "WAV", "PCM_16")
    with pytest.raises(MediaError, match="8 channels, more than 2"):
        load_audio(surround)
    assert load_audio(surround, max_channels=8).samples.shape == (8, len(TONE))
    with pytest.raises(MediaError, match="cannot be read"):
        load_audio(tmp_path / "absent.wav")


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_an_hour_is_accepted_and_a_second_more_is_not(container: str) -> None:
    """At 1,000 samples a second, to save time."""
    hour = np.zeros(3_600_000, np.float32)
    waveform = load_audio(encoded(hour, container, "PCM_16", 1000))
    assert waveform.duration_s == 3600
    with pytest.raises(MediaError, match=r"lasts 3601\.0 s, more than 3600 s"):
        load_audio(encoded(np.zeros(3_601_000, np.float32), container, "PCM_16", 1000))


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros((1, 0), np.float32), "no samples"),
        (np.array([[0.0, np.nan]], np.float32), "not finite"),
        (np.array([[0.0, -np.inf]], np.float32), "not finite"),
        (np.zeros(4, np.float32), r"must be float32 \[channels, n\]"),
        (np.zeros((1, 4), np.int16), r"must be float32 \[channels, n\]"),
    ],
)
def test_unusable_samples_never_become_a_waveform(samples: np.ndarray, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        Waveform(samples, RATE)


def test_files_with_unusable_samples_are_refused() -> None:
    with pytest.raises(MediaError, match="not finite"):
        load_audio(encoded(np.array([0.0, np.nan, 0.1]), "WAV", "FLOAT"))
    with pytest.raises(MediaError, match="no samples"):
        load_audio(encoded(np.zeros(0, np.float32), "WAV", "PCM_16"))


def test_facts_tell_silence_and_clipping_apart() -> None:
    silent = describe(Waveform(np.zeros((1, RATE), np.float32), RATE))
    assert (silent.silent, silent.rms_dbfs, silent.duration_s) == (True, -math.inf, 1.0)
    clipped = describe(Waveform(np.clip(4.0 * TONE, -1, 1)[None], RATE))
    assert not clipped.silent
    assert 0.5 < clipped.clipped_share < 0.8
    tone = describe(Waveform(TONE[None], RATE))
    assert tone.clipped_share == 0.0
    assert math.isclose(tone.rms_dbfs, 20 * math.log10(0.5 / math.sqrt(2)), abs_tol=0.02)


@given(
    rate=st.sampled_from([8000, 11025, 16000, 22050, 24000, 44100, 48000]),
    n=st.integers(1, 4000),
    cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_any_range_of_a_resampled_sound_equals_that_range_of_the_whole(
    rate: int, n: int, cuts: tuple[float, float]
) -> None:
    """An hour can be resampled in pieces: there are no seams."""
    samples = np.random.default_rng(n).uniform(-1, 1, n).astype(np.float32)
    whole = resample(samples, rate, RATE)
    assert len(whole) == resampled_length(n, rate, RATE) == math.ceil(n * RATE / rate)
    start, stop = sorted(int(c * len(whole)) for c in cuts)
    np.testing.assert_allclose(
        resample(samples, rate, RATE, start, stop), whole[start:stop], atol=1e-6
    )


@pytest.mark.parametrize("rate", [8000, 22255, 24000, 44100, 48000])
def test_a_tone_keeps_its_pitch_and_level_at_another_rate(rate: int) -> None:
    """Also at rates without a common divisor, which must not build a giant filter."""
    hz, n = 440.0, rate
    samples = np.sin(2 * np.pi * hz / rate * np.arange(n)).astype(np.float32)
    found = resample(samples, rate, RATE)
    expected = np.sin(2 * np.pi * hz / RATE * np.arange(len(found)))
    np.testing.assert_allclose(found[200:-200], expected[200:-200], atol=2e-3)


def test_what_the_new_rate_cannot_hold_is_removed() -> None:
    """10 kHz does not fold into the band below 8 kHz."""
    samples = np.sin(2 * np.pi * 10_000 / 48_000 * np.arange(48_000)).astype(np.float32)
    assert np.abs(resample(samples, 48_000, RATE)[200:-200]).max() < 0.01
