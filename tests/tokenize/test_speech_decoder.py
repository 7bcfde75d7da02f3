"""What holds for the speech decoder whatever its weights are; tiny random networks show it."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from omni_diffusion.errors import CodeRangeError, MediaError, OmniError, WeightsError
from omni_diffusion.tokenize.speech import hift as hift_module
from omni_diffusion.tokenize.speech.decoder import NOISE_SEED, OVERLAP_CODES, FlowDecoder
from omni_diffusion.tokenize.speech.decoder_config import DecoderConfig
from omni_diffusion.tokenize.speech.flow import FlowConfig, SpeechFlow
from omni_diffusion.tokenize.speech.hift import HiFT, HiFTConfig

pytestmark = pytest.mark.usefixtures("one_thread")

CODEBOOK_SIZE = 50
# A block of 32 codes makes windows of 128, so that a test of many windows stays short.
CONFIG = {
    "flow": {"input_size": 16, "vocab_size": CODEBOOK_SIZE, "output_type": "mel"},
    "encoder": {
        "input_size": 16,
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 16,
        "num_blocks": 1,
        "block_size": 32,
        "dropout_rate": 0.1,
    },
    "cfm": {"cfm_params": {"solver": "euler", "inference_cfg_rate": 0.7}},
    "estimator": {
        "channels": [8, 8],
        "attention_head_dim": 8,
        "n_blocks": 1,
        "num_mid_blocks": 1,
        "num_heads": 1,
        "act_fn": "gelu",
    },
    "hift": {"base_channels": 8, "istft_params": {"n_fft": 16, "hop_len": 4}},
    "f0_predictor": {"cond_channels": 8},
}


def published_form(network):
    """A vocoder's tensors with weight norm, as `hift.pt` has them."""
    tensors = {}
    for key, tensor in network.state_dict().items():
        parent = key.rsplit(".", 1)[0]
        if key.endswith("weight") and tensor.dim() == 3 and not parent.startswith("source_downs"):
            norm = tensor.flatten(1).norm(dim=1)[:, None, None]
            tensors[f"{key}_g"], tensors[f"{key}_v"] = norm, 2 * tensor
        else:
            tensors[key] = tensor
    return tensors


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folder of a tiny decoder in the published layout."""
    folder = tmp_path_factory.mktemp("decoder")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    config = DecoderConfig.from_folder(folder)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        flow, hift = SpeechFlow(config.flow), HiFT(config.hift)
    torch.save(flow.state_dict(), folder / "flow.pt")
    torch.save(published_form(hift), folder / "hift.pt")
    return folder


@pytest.fixture(scope="module")
def decoder(weights):
    return FlowDecoder.from_pretrained(weights)


def random_codes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, CODEBOOK_SIZE, (count,), generator=generator)


@pytest.fixture
def copied(weights, tmp_path):
    """A copy of the weights to damage: the folder, and a function that edits one file."""
    for file in weights.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())

    def edit(name, change):
        tensors = torch.load(tmp_path / name, weights_only=True)
        change(tensors)
        torch.save(tensors, tmp_path / name)

    return tmp_path, edit


def test_equal_codes_sound_equal_and_the_global_generator_is_left_alone(weights):
    codes = random_codes(20)
    heard = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        heard.append(FlowDecoder.from_pretrained(weights).decode(codes))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*heard)


def test_another_seed_gives_another_rendering(decoder):
    codes = random_codes(20)
    assert not torch.equal(decoder.decode(codes), decoder.decode(codes, seed=NOISE_SEED + 1))


@settings(max_examples=10)
@given(st.integers(1, 300), st.integers(0, 2**31))
def test_the_length_of_the_sound_follows_from_the_number_of_codes(decoder, count, seed):
    waveform = decoder.decode(random_codes(count, seed), steps=1)
    assert waveform.shape == (256 * (count * 441 // 64),)
    assert waveform.dtype == torch.float32
    assert waveform.isfinite().all() and waveform.abs().max() <= 1


def test_what_long_speech_has_settled_does_not_change_when_more_follows(decoder):
    """Windows of 128 codes, 64 apart: the third one leaves the first two as they were."""
    assert decoder.window_codes == 128
    codes = random_codes(300)
    early, late = (
        decoder.mel(codes[:count], torch.Generator().manual_seed(NOISE_SEED), steps=2)
        for count in (192, 300)
    )
    settled = decoder.flow.config.frames(192 - OVERLAP_CODES)
    assert torch.equal(early[:, :, :settled], late[:, :, :settled])
    assert not torch.equal(early[:, :, settled:], late[:, :, settled : early.shape[2]])


@torch.no_grad()
def test_a_further_window_is_the_prompted_continuation_of_the_one_before(decoder):
    codes, frames = random_codes(170), decoder.flow.config.frames
    generator = torch.Generator().manual_seed(NOISE_SEED)
    joined = decoder.mel(codes, generator, steps=2)
    generator.manual_seed(NOISE_SEED)
    first, second = codes[None, :128], codes[None, 64:]
    mel = decoder.flow(first, torch.randn((1, 80, frames(128)), generator=generator), steps=2)
    overlap = frames(OVERLAP_CODES)
    prompt = mel[:, :, frames(64) : -overlap]
    noise = torch.randn((1, 80, frames(106)), generator=generator)
    continued = decoder.flow(second, noise, prompt, steps=2)[:, :, prompt.shape[2] :]
    before, joint, after = joined.split(
        [frames(128) - overlap, overlap, continued.shape[2] - overlap], dim=2
    )
    assert torch.equal(before, mel[:, :, :-overlap])
    assert torch.equal(after, continued[:, :, overlap:])
    # Between them the second window fades in while the first fades out.
    fade = torch.arange(1, overlap + 1) / (overlap + 1)
    mixed = (1 - fade) * mel[:, :, -overlap:] + fade * continued[:, :, :overlap]
    torch.testing.assert_close(joint, mixed)


@torch.no_grad()
def test_the_vocoder_makes_one_sound_whatever_its_window(decoder, monkeypatch):
    mel = torch.randn((1, 80, 230), generator=torch.Generator().manual_seed(0))
    pitch = decoder.hift.pitch(mel)
    source = decoder.hift.source(pitch, torch.Generator().manual_seed(0))
    whole = decoder.hift(mel, source)
    monkeypatch.setattr(hift_module, "WINDOW_FRAMES", 50)
    torch.testing.assert_close(decoder.hift.pitch(mel), pitch)
    torch.testing.assert_close(decoder.hift(mel, source), whole)


@pytest.mark.parametrize("harmonic", range(9))
@torch.no_grad()
def test_the_source_of_voiced_speech_rings_at_multiples_of_the_pitch(harmonic):
    source = HiFT(HiFTConfig(base_channels=8, f0_channels=8)).m_source
    source.l_linear.weight.zero_()[0, harmonic] = 1
    source.l_linear.bias.zero_()
    pitch_hz, frames = 22_050 / 256, 64  # one cycle a frame, so the spectrum has exact bins
    signal = source(torch.full((1, frames), pitch_hz), torch.Generator().manual_seed(0))
    spectrum = torch.fft.rfft(signal.flatten()).abs()
    assert spectrum.argmax() == frames * (harmonic + 1)
    silent = source(torch.zeros(1, frames), torch.Generator().manual_seed(0))
    assert silent.std().item() == pytest.approx(0.1 / 3, rel=0.05)


def test_both_file_formats_hold_the_same_decoder(decoder, copied):
    folder, _ = copied
    for stem in ("flow", "hift"):
        save_file(torch.load(folder / f"{stem}.pt"), folder / f"{stem}.safetensors")
        (folder / f"{stem}.pt").unlink()
    again = FlowDecoder.from_pretrained(folder)
    assert again.fingerprint == decoder.fingerprint
    codes = random_codes(10)
    assert torch.equal(again.decode(codes), decoder.decode(codes))


@pytest.mark.parametrize("file", ["flow.pt", "hift.pt"])
def test_the_fingerprint_changes_with_a_single_weight(decoder, copied, file):
    folder, edit = copied
    edit(file, lambda tensors: next(iter(tensors.values())).view(-1)[:1].add_(1))
    assert FlowDecoder.from_pretrained(folder).fingerprint != decoder.fingerprint


def test_codes_may_have_any_integer_dtype(decoder):
    codes = random_codes(12)
    wanted = decoder.decode(codes)
    for dtype in (torch.uint8, torch.uint16, torch.int32):
        assert torch.equal(decoder.decode(codes.to(dtype)), wanted)


@pytest.mark.parametrize(
    ("codes", "error", "words"),
    [
        (torch.zeros(0, dtype=torch.long), MediaError, "there is none"),
        (torch.zeros(1, 5, dtype=torch.long), MediaError, r"\[1, 5\]"),
        (torch.zeros(5), MediaError, "float32"),
        (torch.zeros(5, dtype=torch.bool), MediaError, "bool"),
        (torch.tensor([0, 3, -1]), CodeRangeError, "-1 at position 2"),
        (torch.tensor([0, CODEBOOK_SIZE, 9, 99]), CodeRangeError, "50 at position 1 .2 in all"),
    ],
)
def test_codes_that_cannot_be_spoken_are_refused_by_name(decoder, codes, error, words):
    with pytest.raises(error, match=words):
        decoder.decode(codes)


def test_a_solver_without_steps_is_refused(decoder):
    with pytest.raises(OmniError, match="steps is 0"):
        decoder.decode(random_codes(3), steps=0)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("flow.pt", lambda t: t.pop("encoder_proj.bias"), "missing encoder_proj.bias"),
        ("flow.pt", lambda t: t.update(extra=torch.zeros(1)), "unexpected extra"),
        (
            "flow.pt",
            lambda t: t.update({"encoder_proj.bias": torch.zeros(3)}),
            r"encoder_proj.bias: checkpoint \[3\], model \[80\]",
        ),
        ("hift.pt", lambda t: t.pop("conv_pre.weight_g"), "missing conv_pre.weight_g"),
        ("hift.pt", lambda t: t.pop("ups.1.weight_v"), "missing ups.1.weight_v"),
        (
            "hift.pt",
            lambda t: t.update({"conv_pre.weight_g": torch.zeros(3, 1, 1)}),
            r"conv_pre.weight_g.*\[3, 1, 1\]",
        ),
        ("hift.pt", lambda t: t.pop("m_source.l_linear.bias"), "missing m_source.l_linear.bias"),
    ],
)
def test_a_wrong_checkpoint_is_refused_with_the_keys_at_fault(copied, file, change, words):
    folder, edit = copied
    edit(file, change)
    with pytest.raises(WeightsError, match=words):
        FlowDecoder.from_pretrained(folder)


@pytest.mark.parametrize("file", ["flow.pt", "hift.pt"])
def test_an_incomplete_folder_is_refused(copied, file):
    folder, _ = copied
    (folder / file).unlink()
    with pytest.raises(WeightsError, match=file):
        FlowDecoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("section", "setting", "words"),
    [
        ("encoder", {"use_cnn_module": True}, "use_cnn_module is True"),
        ("encoder", {"attention_heads": "two"}, "attention_heads is 'two'"),
        ("encoder", {"attention_heads": 3}, "multiple of attention_heads"),
        ("encoder", {"block_size": 0}, "block_size must be positive"),
        ("encoder", {"left_context": 4}, "unknown setting 'left_context'"),
        ("cfm", {"cfm_params": {"solver": "heun"}}, "solver is 'heun'"),
        ("hift", {"upsample_rates": [8, 4]}, "256 samples a frame"),
        ("vocoder", {}, "unknown section 'vocoder'"),
    ],
)
def test_a_configuration_that_would_be_misread_is_refused(copied, section, setting, words):
    folder, _ = copied
    changed = CONFIG | {section: CONFIG.get(section, {}) | setting}
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(WeightsError, match=words):
        FlowDecoder.from_pretrained(folder)


def test_without_a_configuration_the_published_sizes_are_expected(tmp_path):
    """Parameters of the published files: 445 MB of `flow.pt` and 82 MB of `hift.pt` in float32."""
    config = DecoderConfig.from_folder(tmp_path)
    assert config == DecoderConfig(flow=FlowConfig(), hift=HiFTConfig())
    with torch.device("meta"):
        networks = SpeechFlow(config.flow), HiFT(config.hift)
    sizes = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert sizes == [111_166_208, 20_447_517]
