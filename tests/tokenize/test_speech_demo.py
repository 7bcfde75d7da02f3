"""The tokenizer that ships in the package turns speech into codes and back, right after install.

The sounds under `data/` are sentences that the training script never speaks, read by SVOX Pico:
three clips, and minutes that `tools/demo_tokenizers/speech_test_sounds.py` makes.
"""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from omni_diffusion import tokenize
from omni_diffusion.tokenize.speech.audio import Waveform, load_audio
from omni_diffusion.tokenize.speech.griffin_lim import GriffinLimDecoder
from omni_diffusion.tokenize.speech.mel import SAMPLE_RATE_HZ, log_mel
from omni_diffusion.tokenize.speech.tokenizer import SpeechTokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

CORRELATION_FLOOR = 0.8
CODES_USED_FLOOR = 0.10
CLIPS = [
    load_audio(path) for path in sorted((Path(__file__).parent / "data").glob("speech-*.flac"))
]


@pytest.fixture(scope="module")
def demo() -> SpeechTokenizer:
    return SpeechTokenizer.from_pretrained("demo")


def correlation(waveform: Waveform, features: Tensor) -> float:
    """Of the recording's features with others of the same length, over all bins."""
    whole = torch.zeros(features.shape[1] * 160)
    whole[: waveform.samples.shape[1]] = torch.from_numpy(waveform.samples[0])
    return float(np.corrcoef(log_mel(whole).flatten(), features.flatten())[0, 1])


def test_it_has_the_published_codes_and_says_that_it_is_a_demo(demo: SpeechTokenizer) -> None:
    assert (demo.codebook_size, demo.codes_per_second) == (16_384, 12.5)
    assert demo.fingerprint.startswith("glm4voice-demo-")
    assert demo.decoder is not None
    assert "demo" in demo.decoder.fingerprint
    weights = resources.files(tokenize) / "demo" / "speech.safetensors"
    assert len(weights.read_bytes()) < 6_000_000


def test_speech_survives_the_round_trip(demo: SpeechTokenizer) -> None:
    """What the codes predict, and the sound made of it, resemble what was said."""
    assert len(CLIPS) == 3
    assert isinstance(demo.decoder, GriffinLimDecoder)
    for clip, codes in zip(CLIPS, demo.encode(CLIPS), strict=True):
        assert correlation(clip, demo.decoder.log_mel(codes)) >= CORRELATION_FLOOR
        sound = demo.decode(codes)
        assert sound.shape == (1280 * len(codes),)
        assert demo.decoder.sample_rate_hz == SAMPLE_RATE_HZ
        assert correlation(clip, log_mel(sound)) >= CORRELATION_FLOOR


def test_minutes_of_speech_put_the_code_book_to_use(demo: SpeechTokenizer) -> None:
    """More than a tenth of it, in three and a half minutes of held-out texts."""
    minutes = load_audio(Path(__file__).parent / "data" / "held-out.ogg")
    codes = demo.encode([minutes])[0]
    assert len(codes.unique()) > CODES_USED_FLOOR * demo.codebook_size
    assert isinstance(demo.decoder, GriffinLimDecoder)
    features = demo.decoder.log_mel(codes)
    steps, parts = 3000, []
    for start in range(0, features.shape[1] - steps + 1, steps):
        samples = minutes.samples[:, start * 160 : (start + steps) * 160]
        part = Waveform(samples, minutes.sample_rate_hz)
        parts.append(correlation(part, features[:, start : start + steps]))
    assert len(parts) == 7
    assert np.mean(parts) >= CORRELATION_FLOOR


def test_codes_carry_what_was_said(demo: SpeechTokenizer) -> None:
    """The codebook has not collapsed: most steps get a code of their own."""
    codes = demo.encode(CLIPS)
    assert len(torch.cat(codes).unique()) > 0.8 * len(torch.cat(codes))
    right, wrong = CLIPS[0], codes[1].repeat(4)[: len(codes[0])]
    assert isinstance(demo.decoder, GriffinLimDecoder)
    own = correlation(right, demo.decoder.log_mel(codes[0]))
    other = correlation(right, demo.decoder.log_mel(wrong))
    assert other < CORRELATION_FLOOR < own


def test_the_same_codes_always_give_the_same_sound(demo: SpeechTokenizer) -> None:
    codes = demo.encode(CLIPS[:1])[0]
    assert torch.equal(demo.decode(codes), demo.decode(codes))
