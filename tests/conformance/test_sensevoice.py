"""Speech input is what upstream feeds the language model: features, encoder, projector.

Tolerances are those of the set's README. An array stored as float16 may differ by its rounding on
top of that.
"""

import numpy as np
import pytest
import soundfile
import torch

from agreement import assert_close
from omni_diffusion.tokenize.speech.fbank import log_mel
from omni_diffusion.tokenize.speech.sensevoice import SpeechFeatures
from vectors import vector_set

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDER = vector_set("sensevoice")
EXPECTED = dict(np.load(FOLDER / "expected.npz"))
CLIPS = sorted(path.stem for path in FOLDER.glob("*.wav"))
TOLERANCE = 1e-3


def check(actual, name):
    assert_close(actual, EXPECTED[name], TOLERANCE, name)


@pytest.fixture(scope="module")
def speech():
    return SpeechFeatures.from_pretrained(FOLDER)


def waveform(clip):
    samples, rate = soundfile.read(FOLDER / f"{clip}.wav", dtype="float32")
    assert rate == 16_000
    return torch.from_numpy(samples)


def test_the_set_holds_clips_to_compare():
    assert len(CLIPS) >= 2


@pytest.mark.parametrize("clip", CLIPS)
def test_mel_energies_are_those_of_kaldi(clip):
    check(log_mel(waveform(clip)), f"{clip}.fbank80")


@pytest.mark.parametrize("clip", CLIPS)
def test_features_are_those_of_the_published_front_end(speech, clip):
    check(speech.features(waveform(clip)), f"{clip}.lfr_cmvn")


@torch.no_grad()
def test_a_batch_of_all_clips_is_encoded_and_projected_as_upstream(speech):
    encoded = speech.encode([speech.features(waveform(clip)) for clip in CLIPS])
    for clip, rows in zip(CLIPS, encoded, strict=True):
        check(rows, f"{clip}.encoder_out")
        check(speech.projector(rows), f"{clip}.projected")
