"""The speech encoder against vectors made by the published code; tolerances are the README's."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from agreement import assert_close, assert_recipe_followed, assert_same_codes, keyed_randn
from omni_diffusion.tokenize.speech.audio import Waveform, load_audio, resample
from omni_diffusion.tokenize.speech.mel import SAMPLE_RATE_HZ, log_mel
from omni_diffusion.tokenize.speech.tokenizer import SpeechTokenizer
from omni_diffusion.tokenize.speech.whisper_vq import (
    UNUSED_KEYS,
    WhisperVQConfig,
    WhisperVQEncoder,
    query_blocks,
)
from vectors import vector_set

VECTORS = vector_set("glm4voice_tokenizer")
REDUCED = dict(np.load(VECTORS / "reduced_expected.npz"))
FULL = dict(np.load(VECTORS / "full_expected.npz"))
FEATURES = json.loads((VECTORS / "logmel_stats.json").read_text())

FEATURE_TOLERANCE = 1e-4
HIDDEN_TOLERANCE = 2e-3
REDUCED_MARGIN = 0.02
FULL_MARGIN = 1.0
SEGMENT_SAMPLES = 30 * SAMPLE_RATE_HZ


def clips_of(expected: dict[str, np.ndarray]) -> list[str]:
    return sorted(key.removesuffix(".tokens") for key in expected if key.endswith(".tokens"))


def clip(name: str) -> Waveform:
    return load_audio(next(p for p in (VECTORS / "audio").iterdir() if p.stem == name))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SpeechTokenizer:
    folder: Path = tmp_path_factory.mktemp("reduced")
    shutil.copy(VECTORS / "reduced_config.json", folder / "config.json")
    shutil.copy(VECTORS / "reduced_model.safetensors", folder / "model.safetensors")
    return SpeechTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", sorted(FEATURES))
def test_features_of_a_recording_are_the_published_ones(name: str) -> None:
    """Any sample rate and channel count reaches the encoder as upstream's pipeline delivers it."""
    expected, waveform = FEATURES[name], clip(name)
    samples = resample(waveform.channel("first"), waveform.sample_rate_hz, SAMPLE_RATE_HZ)
    assert len(samples) == expected["resampled_len"]
    middle = len(samples) // 2
    for start, key in ((0, "resampled_first8_of_ch0"), (middle, "resampled_mid8_of_ch0")):
        np.testing.assert_allclose(samples[start : start + 8], expected[key], atol=1e-6)

    steps = expected["shape"][1]
    whole = torch.zeros(steps * 160)
    head = torch.from_numpy(samples[:SEGMENT_SAMPLES].copy())
    whole[: len(head)] = head
    features = log_mel(whole)
    assert list(features.shape) == expected["shape"]
    bins = [0, 32, 64, 96, 127]
    found = {
        "mean": features.mean(),
        "std": features.std(),
        "min": features.min(),
        "max": features.max(),
        "frame0_bins_0_32_64_96_127": features[bins, 0],
        "mid_frame_bins": features[bins, steps // 2],
    }
    for key, value in found.items():
        np.testing.assert_allclose(
            value.numpy(), expected[key], rtol=0, atol=FEATURE_TOLERANCE, err_msg=key
        )


def test_hidden_states_are_the_published_ones(tokenizer: SpeechTokenizer) -> None:
    """Every layer agrees, so equal codes are no accident."""
    encoder = tokenizer.encoder
    valid = int(REDUCED["inter.attention_mask"][0, ::2].sum())
    features = torch.from_numpy(REDUCED["inter.input_features"])
    seen: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(
            lambda _module, _inputs, output, i=i: seen.__setitem__(f"inter.hidden_{i}", output)
        )
        for i, layer in enumerate(encoder.layers, start=1)
    ]
    with torch.inference_mode():
        seen["inter.prequant"] = encoder.pooled(features, torch.tensor([valid]))
        seen["inter.hidden_0"] = encoder.stem(features)
    for hook in hooks:
        hook.remove()
    # The vectors' last hidden state is the one after quantisation, which nothing here computes.
    seen.pop(f"inter.hidden_{len(encoder.layers)}")
    assert len(seen) >= 3
    for key, value in seen.items():
        assert_close(value, REDUCED[key], HIDDEN_TOLERANCE * REDUCED[key].std(), key)


def test_block_causal_mask_is_the_published_one() -> None:
    """Frames see their own block and the past, never padding."""
    example = np.load(VECTORS / "block_mask_example.npz")
    valid = torch.from_numpy(example["attention_mask"].sum(axis=1)).long()
    n_frames = example["attention_mask"].shape[1]
    # A second, unpadded row forces masks, as in a batch of mixed lengths.
    for lengths in (valid, torch.cat([valid, torch.tensor([n_frames])])):
        allowed = np.zeros((n_frames, n_frames), bool)
        for block in query_blocks(lengths, n_frames, int(example["block_size"])):
            allowed[block.start : block.stop, : block.seen] = (
                True if block.mask is None else block.mask[0, 0, 0].numpy()
            )
        np.testing.assert_array_equal(allowed, example["allowed"])


@pytest.mark.parametrize("name", clips_of(REDUCED))
def test_codes_are_the_published_ones(tokenizer: SpeechTokenizer, name: str) -> None:
    """A recording gives the codes that the published tokenizer gives."""
    codes = tokenizer.encode([clip(name)])[0]
    assert_same_codes(codes, REDUCED[f"{name}.tokens"], REDUCED[f"{name}.margin"], REDUCED_MARGIN)


def test_codes_of_a_mixed_batch_are_the_published_ones(tokenizer: SpeechTokenizer) -> None:
    """All clips in one call, of any length and sample rate, give the codes of the same call."""
    names = clips_of(REDUCED)
    for name, codes in zip(names, tokenizer.encode([clip(n) for n in names]), strict=True):
        assert_same_codes(
            codes, REDUCED[f"batch_all.{name}"], REDUCED[f"{name}.margin"], REDUCED_MARGIN
        )


def recipe_weight(key: str, shape: list[int], recipe: dict[str, float]) -> Tensor:
    """One tensor of the full-size model, by the README's recipe."""
    if key == "embed_positions.weight":
        half = shape[1] // 2
        rates = torch.exp(torch.arange(half) * -(np.log(10_000.0) / (half - 1)))
        angles = torch.arange(shape[0], dtype=torch.float32)[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)
    r = keyed_randn(key, shape, int(recipe["recipe_seed"]))
    if key == "codebook.weight":
        offset = torch.from_numpy(np.load(VECTORS / "full_codebook_offset.npz")["offset"])
        return offset + recipe["codebook_scale"] * r
    if key.endswith(".bias"):
        return 0.1 * r
    if "layer_norm" in key:
        return 1.0 + 0.1 * r
    if len(shape) == 3:
        return r * 1.5 * (shape[1] * shape[2]) ** -0.5
    return r * shape[1] ** -0.5 * (1.5 if "q_proj" in key or "k_proj" in key else 1.0)


@pytest.fixture(scope="module")
def full_tokenizer() -> SpeechTokenizer:
    recipe = json.loads((VECTORS / "full_recipe_check.json").read_text())
    with torch.device("meta"):
        encoder = WhisperVQEncoder(WhisperVQConfig.from_file(VECTORS / "published_config.json"))
    weights = {
        key: recipe_weight(key, shape, recipe)
        for key, shape in recipe["shapes"].items()
        if not key.startswith(UNUSED_KEYS)
    }
    checks = recipe["weight_checks"]
    assert_recipe_followed(weights, {key: checks[key] for key in checks if key in weights})
    encoder.load_state_dict(weights, assign=True)
    return SpeechTokenizer(encoder.eval(), name="glm4voice")


@pytest.mark.slow
@pytest.mark.parametrize("name", clips_of(FULL))
def test_full_size_codes_are_the_published_ones(full_tokenizer: SpeechTokenizer, name: str) -> None:
    """At the published sizes, too."""
    codes = full_tokenizer.encode([clip(name)])[0]
    assert_same_codes(codes, FULL[f"{name}.tokens"], FULL[f"{name}.margin"], FULL_MARGIN)


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in FULL if key.startswith("prequant_")])
def test_full_size_vectors_are_the_published_ones(
    full_tokenizer: SpeechTokenizer, key: str
) -> None:
    """The vectors before quantisation agree at the published sizes (31 s clip, first segment)."""
    name = next(n for n in clips_of(FULL) if n.endswith("_31s"))
    samples = torch.from_numpy(clip(name).channel("first")[:SEGMENT_SAMPLES].copy())
    with torch.inference_mode():
        frames = torch.tensor([SEGMENT_SAMPLES // 320])
        pooled = full_tokenizer.encoder.pooled(log_mel(samples)[None], frames)[0]
    expected = FULL[key]
    assert_close(pooled[: len(expected)], expected, HIDDEN_TOLERANCE * expected.std(), key)
