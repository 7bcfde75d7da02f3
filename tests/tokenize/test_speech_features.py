"""What holds for speech features whatever the weights are; a tiny random encoder shows it."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from omni_diffusion.errors import MediaError, WeightsError
from omni_diffusion.tokenize.speech import fbank
from omni_diffusion.tokenize.speech.fbank import FEATURE_SIZE, log_mel, stack_frames
from omni_diffusion.tokenize.speech.sanm import AudioProjector, SenseVoiceConfig, SenseVoiceEncoder
from omni_diffusion.tokenize.speech.sensevoice import (
    ENCODER_PREFIX,
    PROJECTOR_PREFIX,
    SpeechFeatures,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"output_size": 16, "attention_heads": 2, "linear_units": 16, "num_blocks": 2}
CONFIG = {"encoder_conf": SIZES | {"tp_blocks": 1, "input_layer": "pe", "dropout_rate": 0.1}}
MODEL_WIDTH = 24


def statistics_text(size=FEATURE_SIZE, shift="-10.5", scale="0.25", tail="</Nnet>"):
    def part(name, value):
        return f"<{name}> {size} {size}\n<LearnRateCoef> 0 [ {' '.join([value] * size)} ]\n"

    head = f"<Nnet>\n<Splice> {size} {size}\n[ 0 ]\n"
    return head + part("AddShift", shift) + part("Rescale", scale) + tail + "\n"


@pytest.fixture(scope="module")
def tensors():
    """Encoder and projector weights under the names of their modules."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder = SenseVoiceEncoder(SenseVoiceConfig(**SIZES, tp_blocks=1))
        projector = AudioProjector(16, MODEL_WIDTH)
    return encoder.state_dict(), projector.state_dict()


@pytest.fixture
def small(tensors, tmp_path):
    """SenseVoiceSmall's layout: the folder, and a function that edits `model.pt`."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "am.mvn").write_text(statistics_text())
    torch.save(tensors[0] | {"ctc.ctc_lo.weight": torch.zeros(5, 16)}, tmp_path / "model.pt")

    def edit(change):
        loaded = torch.load(tmp_path / "model.pt", weights_only=True)
        change(loaded)
        torch.save(loaded, tmp_path / "model.pt")

    return tmp_path, edit


@pytest.fixture
def omni(tensors, tmp_path):
    """The layout of an Omni-Diffusion checkpoint, in two files, without statistics."""
    folder = tmp_path / "omni"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    encoder, projector = tensors
    items = [(ENCODER_PREFIX + key, tensor) for key, tensor in encoder.items()]
    items += [(PROJECTOR_PREFIX + key, tensor) for key, tensor in projector.items()]
    items += [(f"{ENCODER_PREFIX}ctc.ctc_lo.bias", torch.zeros(5))]
    items += [("model.embed_tokens.weight", torch.zeros(7, MODEL_WIDTH))]
    for part in range(2):
        save_file(dict(items[part::2]), folder / f"model-{part + 1}-of-2.safetensors")
    return folder


@pytest.fixture(scope="module")
def speech(tensors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sensevoice")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "am.mvn").write_text(statistics_text())
    torch.save(tensors[0], folder / "model.pt")
    return SpeechFeatures.from_pretrained(folder)


def sound(samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(samples, generator=generator)


@given(st.integers(400, 5000), st.integers(0, 2**31))
@settings(max_examples=30)
def test_frames_depend_only_on_the_samples_they_cover(samples, seed):
    """Cutting a recording short takes frames away and leaves the others as they are."""
    waveform = sound(samples + 777, seed)
    short, long = log_mel(waveform[:samples]), log_mel(waveform)
    assert short.shape == (1 + (samples - 400) // 160, 80)
    torch.testing.assert_close(short, long[: len(short)])


def test_twice_the_amplitude_is_four_times_the_energy():
    waveform = sound(3000)
    torch.testing.assert_close(log_mel(2 * waveform), log_mel(waveform) + math.log(4))


def test_silence_has_the_floor_energy_and_no_infinity():
    assert torch.equal(log_mel(torch.zeros(800)), torch.full((3, 80), math.log(2.0**-23)))


def test_long_recordings_are_cut_into_blocks_without_a_trace(monkeypatch):
    waveform = sound(9000)
    whole = log_mel(waveform)
    monkeypatch.setattr(fbank, "BLOCK_FRAMES", 7)
    torch.testing.assert_close(log_mel(waveform), whole)


@given(st.integers(1, 60))
def test_stacked_frames_are_every_sixth_with_its_neighbours(count):
    frames = torch.arange(count, dtype=torch.float32)[:, None]
    stacked = stack_frames(frames)
    centres = range(0, count, 6)
    wanted = [[min(max(c + d, 0), count - 1) for d in range(-3, 4)] for c in centres]
    assert stacked.tolist() == wanted


@given(st.lists(st.integers(400, 30_000), min_size=1, max_size=5), st.randoms())
@settings(max_examples=20)
def test_a_recording_is_encoded_the_same_alone_and_in_any_batch(speech, lengths, random):
    features = [speech.features(sound(n, seed)) for seed, n in enumerate(lengths)]
    order = random.sample(range(len(lengths)), len(lengths))
    batch = speech.encode([features[i] for i in order])
    for index, together in zip(order, batch, strict=True):
        (alone,) = speech.encode([features[index]])
        assert together.shape == (len(features[index]) + 4, 16)
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_no_recordings_are_no_features(speech):
    assert speech.encode([]) == []


def test_both_published_layouts_hold_the_same_encoder(small, omni):
    folder, _ = small
    plain = SpeechFeatures.from_pretrained(folder)
    full = SpeechFeatures.from_pretrained(omni, statistics=folder / "am.mvn")
    assert plain.fingerprint == full.fingerprint
    features = [plain.features(sound(4000))]
    assert torch.equal(plain.encode(features)[0], full.encode(features)[0])
    assert plain.projector is None
    assert full.projector(full.encode(features)[0]).shape == (len(features[0]) + 4, MODEL_WIDTH)


def test_the_fingerprint_changes_with_weights_statistics_and_precision(small):
    folder, edit = small
    fingerprints = {SpeechFeatures.from_pretrained(folder).fingerprint}
    fingerprints.add(SpeechFeatures.from_pretrained(folder, dtype=torch.bfloat16).fingerprint)
    (folder / "am.mvn").write_text(statistics_text(shift="-10.6"))
    fingerprints.add(SpeechFeatures.from_pretrained(folder).fingerprint)
    edit(lambda tensors: tensors["embed.weight"][3, 4].add_(1))
    fingerprints.add(SpeechFeatures.from_pretrained(folder).fingerprint)
    assert len(fingerprints) == 4


def test_features_are_repeatable_and_the_global_generator_is_left_alone(small):
    folder, _ = small
    seen = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        speech = SpeechFeatures.from_pretrained(folder)
        seen.append(speech.encode([speech.features(sound(4000))])[0])
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*seen)


@pytest.mark.parametrize(
    ("waveform", "words"),
    [
        (torch.zeros(399), "399 samples"),
        (torch.zeros(1, 800), r"\[1, 800\]"),
        (torch.zeros(800, dtype=torch.int16), "int16"),
        (torch.full((800,), math.nan), "not finite"),
    ],
)
def test_sound_that_cannot_be_used_is_refused_by_name(speech, waveform, words):
    with pytest.raises(MediaError, match=words):
        speech.features(waveform)


@pytest.mark.parametrize("shape", [(0, FEATURE_SIZE), (3, 80), (FEATURE_SIZE,)])
def test_features_of_another_form_are_refused_by_position(speech, shape):
    with pytest.raises(MediaError, match="features 1"):
        speech.encode([torch.zeros(2, FEATURE_SIZE), torch.zeros(shape)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("encoder.tp_norm.bias"), "missing encoder.tp_norm.bias"),
        (lambda t: t.update({"encoder.more": torch.zeros(1)}), "unexpected encoder.more"),
        (lambda t: t.update({"embed.weight": torch.zeros(4, 560)}), r"embed.weight: .*\[4, 560\]"),
    ],
)
def test_a_wrong_checkpoint_is_refused_with_the_keys_at_fault(small, change, words):
    folder, edit = small
    edit(change)
    with pytest.raises(WeightsError, match=words):
        SpeechFeatures.from_pretrained(folder)


@pytest.mark.parametrize("file", ["model.pt", "am.mvn"])
def test_an_incomplete_folder_is_refused_with_what_is_missing(small, file):
    folder, _ = small
    (folder / file).unlink()
    with pytest.raises(WeightsError, match=file):
        SpeechFeatures.from_pretrained(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a Kaldi network"),
        (statistics_text(size=80), "not a Kaldi network"),
        (statistics_text(tail=""), "not a Kaldi network"),
        (statistics_text() + "<Nnet>", "not a Kaldi network"),
        (statistics_text(shift="-10,5"), "<AddShift>: could not convert"),
        (statistics_text(scale="nan"), "<Rescale> holds 560 numbers, expected 560 finite"),
        (statistics_text(scale="1 2"), "<Rescale> holds 1120 numbers"),
    ],
)
def test_statistics_are_read_strictly(small, text, words):
    folder, _ = small
    (folder / "am.mvn").write_text(text)
    with pytest.raises(WeightsError, match=words):
        SpeechFeatures.from_pretrained(folder)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"encoder_conf": SIZES | {"selfattention_layer_type": "mha"}}, "is 'mha'"),
        ({"encoder_conf": SIZES | {"width": 3}}, "unknown setting 'width'"),
        ({"encoder_conf": SIZES | {"kernel_size": 10}}, "kernel_size odd"),
        (CONFIG | {"frontend_conf": {"n_mels": 128}}, "n_mels is 128"),
        (CONFIG | {"projector": {"proj_input_size": 99}}, "proj_input_size is 99"),
        ({"encoder_conf": 3}, "encoder_conf is 3"),
    ],
)
def test_a_configuration_that_would_be_misread_is_refused(small, config, words):
    folder, _ = small
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=words):
        SpeechFeatures.from_pretrained(folder)


def test_without_an_encoder_configuration_the_published_sizes_are_expected(small):
    folder, _ = small
    (folder / "config.json").write_text('{"model_type": "dream"}')
    with pytest.raises(WeightsError, match=r"checkpoint \[16\], model \[512\]|missing"):
        SpeechFeatures.from_pretrained(folder)
