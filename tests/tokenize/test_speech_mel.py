"""The features are Whisper's, without needing transformers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from omni_diffusion.tokenize.speech.mel import SAMPLE_RATE_HZ, log_mel, mel_filters, power_of


@pytest.fixture(scope="module")
def extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=128)


@settings(max_examples=20)
@given(n_blocks=st.integers(1, 60), level=st.sampled_from([0.0, 1e-4, 0.1, 1.0]))
def test_features_equal_those_of_transformers(
    extractor: WhisperFeatureExtractor, n_blocks: int, level: float
) -> None:
    """Noise, chirps and silence of any level look the same to the encoder."""
    n = n_blocks * 1280
    rng = np.random.default_rng(n_blocks)
    chirp = np.sin(np.cumsum(np.linspace(0.01, 3.0, n)))
    samples = (level * (0.7 * chirp + 0.3 * rng.standard_normal(n))).astype(np.float32)
    expected = extractor(
        samples, sampling_rate=SAMPLE_RATE_HZ, padding="longest", return_tensors="np"
    ).input_features[0]
    found = log_mel(torch.from_numpy(samples)).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_filters_equal_those_of_transformers(extractor: WhisperFeatureExtractor) -> None:
    np.testing.assert_allclose(mel_filters().numpy(), extractor.mel_filters.T, atol=1e-7)


def test_power_comes_back_from_features() -> None:
    """What the decoder inverts is what the encoder computed, above the floor."""
    samples = torch.randn(12_800, generator=torch.Generator().manual_seed(0)) * 0.1
    features = log_mel(samples)
    torch.testing.assert_close(power_of(features).log10() / 4 + 1, features, atol=1e-5, rtol=0)
