"""The speech decoder computes what upstream's computes, stage by stage.

Tolerances are those of the set's README. An array stored as float16 may differ by its rounding on
top of that. Arrays that a copy of the set leaves out are not asked for.
"""

import numpy as np
import pytest
import torch

from agreement import assert_close
from omni_diffusion.tokenize.speech.decoder import NOISE_SEED, FlowDecoder
from vectors import vector_set

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDER = vector_set("glm4voice_decoder")
EXPECTED = dict(np.load(FOLDER / "expected.npz"))
CLIPS = sorted(
    (name.removesuffix(".tokens") for name in EXPECTED if name.endswith(".tokens")),
    key=lambda clip: EXPECTED[f"{clip}.tokens"].size,
)


def clips_with(*arrays):
    return [clip for clip in CLIPS if all(f"{clip}.{array}" in EXPECTED for array in arrays)]


def stored(name):
    return torch.from_numpy(EXPECTED[name].astype(np.float32))


def check(actual, name, tolerance):
    assert_close(actual, EXPECTED[name], tolerance, name)


def codes(clip):
    return torch.from_numpy(EXPECTED[f"{clip}.tokens"][0]).long()


@pytest.fixture(scope="module")
def decoder():
    return FlowDecoder.from_pretrained(FOLDER)


def seeded():
    return torch.Generator().manual_seed(NOISE_SEED)


def test_the_set_covers_every_stage():
    assert clips_with("encoder_out") and clips_with("mel") and clips_with("f0")
    assert clips_with("source", "wav_given_source")


@pytest.mark.parametrize("clip", clips_with("encoder_out"))
@torch.no_grad()
def test_speech_codes_are_encoded_as_upstream(decoder, clip):
    check(decoder.flow.encode(codes(clip)[None]), f"{clip}.encoder_out", 1e-4)


@pytest.mark.parametrize("clip", clips_with("regulated"))
@torch.no_grad()
def test_codes_are_stretched_to_mel_frames_as_upstream(decoder, clip):
    encoded = decoder.flow.encode(codes(clip)[None])
    check(decoder.flow.regulate(encoded), f"{clip}.regulated", 1e-4)


@pytest.mark.parametrize("clip", clips_with("z_seed42"))
def test_the_noise_is_that_of_upstreams_global_seed(clip):
    shape = EXPECTED[f"{clip}.z_seed42"].shape
    check(torch.randn(shape, generator=seeded()), f"{clip}.z_seed42", 0.0)


@pytest.mark.parametrize("clip", clips_with("mel"))
def test_codes_become_the_mel_spectrogram_of_upstream(decoder, clip):
    check(decoder.mel(codes(clip), seeded()), f"{clip}.mel", 2e-3)


@pytest.mark.skipif("prompted.mel" not in EXPECTED, reason="the set holds no prompted clip")
@torch.no_grad()
def test_a_prompt_is_continued_as_upstream_continues_it(decoder):
    """The first ten codes of the longest clip, spoken after the shortest clip."""
    prompt_clip, continued = CLIPS[0], CLIPS[-1]
    prompt_mel = stored(f"{prompt_clip}.mel")
    joined = torch.cat((codes(prompt_clip), codes(continued)[:10]))[None]
    config = decoder.flow.config
    shape = (1, config.output_size, config.frames(joined.shape[1]))
    mel = decoder.flow(joined, torch.randn(shape, generator=seeded()), prompt_mel)
    check(mel[:, :, prompt_mel.shape[2] :], "prompted.mel", 2e-3)


@pytest.mark.parametrize("clip", clips_with("f0"))
@torch.no_grad()
def test_the_pitch_is_that_of_upstream(decoder, clip):
    mel = stored(f"{clip}.mel") if clip in clips_with("mel") else decoder.mel(codes(clip), seeded())
    check(decoder.hift.pitch(mel), f"{clip}.f0", 0.1)


@pytest.mark.parametrize("clip", clips_with("mel", "source", "wav_given_source"))
@torch.no_grad()
def test_a_source_signal_is_shaped_to_the_waveform_of_upstream(decoder, clip):
    waveform = decoder.hift(stored(f"{clip}.mel"), stored(f"{clip}.source"))
    check(waveform, f"{clip}.wav_given_source", 2e-3)
