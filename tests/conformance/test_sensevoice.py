"""Speech input is what upstream feeds the language model: features, encoder, projector.

Tolerances are those of the set's README. An array stored as float16 may differ by its rounding on
top of that.
"""

import numpy as np
import pytest
import soundfile
import torch

from omni_diffusion.tokenize.speech.fbank import log_mel
from omni_diffusion.tokenize.speech.sensevoice import SpeechFeatures
from vectors import vector_set

FOLDER = vector_set("sensevoice")
EXPECTED = dict(np.load(FOLDER / "expected.npz"))
CLIPS = sorted(path.stem for path in FOLDER.glob("*.wav"))
TOLERANCE = 1e-3


def assert_close(actual, name):
    wanted = torch.from_numpy(EXPECTED[name].astype(np.float32))
    assert actual.shape == wanted.shape
    rounding = 2.0**-11 if EXPECTED[name].dtype == np.float16 else 0.0
    excess = (actual - wanted).abs() - rounding * wanted.abs()
    assert excess.max() <= TOLERANCE, f"{name}: {excess.max():.2e} beyond rounding"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On networks this small a second thread costs more than it brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    assert_close(log_mel(waveform(clip)), f"{clip}.fbank80")


@pytest.mark.parametrize("clip", CLIPS)
def test_features_are_those_of_the_published_front_end(speech, clip):
    assert_close(speech.features(waveform(clip)), f"{clip}.lfr_cmvn")


@torch.no_grad()
def test_a_batch_of_all_clips_is_encoded_and_projected_as_upstream(speech):
    encoded = speech.encode([speech.features(waveform(clip)) for clip in CLIPS])
    for clip, rows in zip(CLIPS, encoded, strict=True):
        assert_close(rows, f"{clip}.encoder_out")
        assert_close(speech.projector(rows), f"{clip}.projected")
