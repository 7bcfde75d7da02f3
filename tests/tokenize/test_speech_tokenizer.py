"""What the speech tokenizer promises whatever its weights: counts, independence, typed refusals."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from omni_diffusion.errors import CodeRangeError, MediaError, WeightsError
from omni_diffusion.tokenize.speech.audio import Waveform
from omni_diffusion.tokenize.speech.tokenizer import SpeechTokenizer
from omni_diffusion.tokenize.speech.whisper_vq import WhisperVQConfig, WhisperVQEncoder

RATE = 16_000
CONFIG = WhisperVQConfig(
    num_mel_bins=128,
    d_model=32,
    encoder_attention_heads=2,
    encoder_ffn_dim=64,
    max_source_positions=1500,
    quantize_position=2,
    pooling_position=2,
    pooling_kernel_size=4,
    quantize_vocab_size=256,
    quantize_causal_block_size=200,
)


def small_encoder() -> WhisperVQEncoder:
    torch.manual_seed(0)
    return WhisperVQEncoder(CONFIG).eval()


@pytest.fixture(scope="module")
def tokenizer() -> SpeechTokenizer:
    return SpeechTokenizer(small_encoder(), name="glm4voice")


def speech(n: int, seed: int = 0) -> Tensor:
    """Noise that swells and fades, so neighbouring codes differ."""
    noise = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    return 0.2 * noise * torch.sin(torch.arange(n) / 2000.0)


# One sample, whole codes, one sample off them, and about 4 s where attention begins a new block.
LENGTHS = st.one_of(
    st.sampled_from([1, 37, 1279, 1280, 1281, 2560, 12_800, 64_000, 65_280]),
    st.integers(1, 90_000),
)


@settings(max_examples=25)
@given(lengths=st.lists(LENGTHS, min_size=2, max_size=6), batch_frames=st.sampled_from([0, 2000]))
def test_a_recording_gives_the_same_codes_in_any_company_and_order(
    tokenizer: SpeechTokenizer, lengths: list[int], batch_frames: int
) -> None:
    """Re-running a job with other batches, or on a machine that batches, changes no code."""
    clips = [(speech(n, seed), RATE) for seed, n in enumerate(lengths)]
    tokenizer.batch_frames = 0
    alone = [tokenizer.encode([clip])[0] for clip in clips]
    tokenizer.batch_frames = batch_frames
    together = tokenizer.encode(clips)
    backwards = tokenizer.encode(clips[::-1])[::-1]
    for single, batched, reversed_ in zip(alone, together, backwards, strict=True):
        assert torch.equal(single, batched)
        assert torch.equal(single, reversed_)


@settings(max_examples=25)
@given(n=LENGTHS, rate=st.sampled_from([8000, 16_000, 22_050, 24_000, 44_100]))
def test_one_code_for_every_80_ms_begun(tokenizer: SpeechTokenizer, n: int, rate: int) -> None:
    """Sequence lengths are known before anything is encoded."""
    codes = tokenizer.encode([(speech(n), rate)])[0]
    assert codes.dtype == torch.int32
    at_16_khz = math.ceil(n * RATE / rate)
    assert len(codes) == tokenizer.n_codes(n, rate) == math.ceil(at_16_khz / 1280)
    assert 0 <= int(codes.min()) <= int(codes.max()) < tokenizer.codebook_size


def test_a_long_recording_is_its_half_minutes_one_after_the_other(
    tokenizer: SpeechTokenizer,
) -> None:
    """An hour costs the memory of a few segments: segments do not see each other."""
    samples = speech(70 * RATE)
    whole = tokenizer.encode([(samples, RATE)])[0]
    parts = tokenizer.encode([(part, RATE) for part in samples.split(30 * RATE)])
    assert len(whole) == 70 * 25 // 2
    assert torch.equal(whole, torch.cat(parts))


def test_later_sound_changes_no_code_of_an_earlier_block(tokenizer: SpeechTokenizer) -> None:
    """Block-causal means that a stream can be tokenized 4 s at a time."""
    first, second = speech(12 * RATE, 1), speech(12 * RATE, 2)
    peak = first[: 2 * RATE].abs().max()
    # An equal loudest value keeps the features' floor, the only thing that looks ahead, equal.
    second = second.clamp(-peak, peak) * 0.5
    changed = torch.cat([first[: 8 * RATE], second[8 * RATE :]])
    a, b = tokenizer.encode([(first, RATE), (changed, RATE)])
    # The last window of the 8 s reaches 40 samples into what follows.
    assert torch.equal(a[:49], b[:49])
    assert not torch.equal(a[100:], b[100:])


def test_the_first_channel_is_the_one_tokenized_unless_the_mean_is_asked_for() -> None:
    encoder = small_encoder()
    left, right = speech(20_000, 1), speech(20_000, 2)
    stereo = torch.stack([left, right])
    first = SpeechTokenizer(encoder, name="glm4voice")
    mean = SpeechTokenizer(encoder, name="glm4voice", channel="mean")
    assert torch.equal(first.encode([(stereo, RATE)])[0], first.encode([(left, RATE)])[0])
    middle = first.encode([((left + right) / 2, RATE)])[0]
    assert torch.equal(mean.encode([(stereo, RATE)])[0], middle)
    assert mean.fingerprint != first.fingerprint


def test_silent_and_clipped_sound_is_tokenized(tokenizer: SpeechTokenizer) -> None:
    clipped = (5.0 * speech(30_000)).clamp(-1.0, 1.0)
    silent, loud = tokenizer.encode([(torch.zeros(30_000), RATE), (clipped, RATE)])
    assert len(silent) == len(loud) == 24
    assert not torch.equal(silent, loud)


@pytest.mark.parametrize(
    ("samples", "rate", "reason"),
    [
        (np.zeros(0, np.float32), RATE, "no samples"),
        (np.full(100, np.nan, np.float32), RATE, "not finite"),
        (np.zeros(100, np.int16), RATE, "float32"),
        (np.zeros((1, 1, 100), np.float32), RATE, "float32"),
        (np.zeros((8, 100), np.float32), RATE, "8 channels, more than 2"),
        (np.zeros(100, np.float32), 0, "sample rate 0"),
    ],
)
def test_unusable_samples_are_named(
    tokenizer: SpeechTokenizer, samples: np.ndarray, rate: int, reason: str
) -> None:
    """The one bad recording of a batch is pointed at."""
    with pytest.raises(MediaError, match=f"waveform 1: .*{reason}"):
        tokenizer.encode([(speech(2000), RATE), (samples, rate)])


def test_no_recordings_give_no_codes(tokenizer: SpeechTokenizer) -> None:
    assert tokenizer.encode([]) == []


def stored(folder: Path, encoder: WhisperVQEncoder, **changes: object) -> Path:
    """A folder as published: configuration with the fields for the decoder, training buffers."""
    published = dataclasses.asdict(CONFIG) | {"decoder_layers": 32, "vocab_size": 51866}
    (folder / "config.json").write_text(json.dumps(published | changes))
    tensors = dict(encoder.state_dict()) | {
        "embed_positions2.weight": torch.zeros(375, 32),
        "ema_count": torch.ones(256),
        "ema_weight": torch.zeros(256, 32),
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_stored_tokenizer_has_the_codes_and_fingerprint_of_the_one_it_came_from(
    tmp_path: Path,
) -> None:
    encoder = small_encoder()
    made = SpeechTokenizer(encoder, name="glm4voice")
    loaded = SpeechTokenizer.from_pretrained(stored(tmp_path, encoder))
    assert loaded.fingerprint == made.fingerprint
    assert loaded.fingerprint.startswith("glm4voice-")
    clip = (speech(40_000), RATE)
    assert torch.equal(loaded.encode([clip])[0], made.encode([clip])[0])
    assert (loaded.codebook_size, loaded.codes_per_second) == (256, 12.5)


def test_the_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    encoder = small_encoder()
    before = SpeechTokenizer.from_pretrained(stored(tmp_path, encoder)).fingerprint
    with torch.no_grad():
        encoder.codebook.weight[3, 3] += 1e-3
    assert SpeechTokenizer.from_pretrained(stored(tmp_path, encoder)).fingerprint != before


def test_half_precision_is_refused_unless_asked_for(tmp_path: Path) -> None:
    """Codes that differ from the published ones are never made by accident."""
    folder = stored(tmp_path, small_encoder())
    with pytest.raises(WeightsError, match="allow_inexact"):
        SpeechTokenizer.from_pretrained(folder, dtype=torch.bfloat16)
    inexact = SpeechTokenizer.from_pretrained(folder, dtype=torch.bfloat16, allow_inexact=True)
    assert inexact.fingerprint != SpeechTokenizer.from_pretrained(folder).fingerprint
    assert len(inexact.encode([(speech(20_000), RATE)])[0]) == 16


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pooling_type": "max"}, "pooling_type"),
        ({"encoder_causal_attention": True}, "encoder_causal_attention"),
        ({"d_model": "wide"}, "d_model"),
        ({"encoder_attention_heads": 5}, "encoder_attention_heads"),
        ({"quantize_vocab_size": 512}, "codebook.weight"),
    ],
)
def test_another_architecture_is_refused_by_name(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(WeightsError, match=reason):
        SpeechTokenizer.from_pretrained(stored(tmp_path, small_encoder(), **changes))


@pytest.mark.parametrize(
    ("key", "tensor", "reason"),
    [
        ("conv1.weight", None, "missing conv1.weight"),
        ("decoder.weight", torch.zeros(2), "unexpected decoder.weight"),
        ("conv1.bias", torch.zeros(7), r"conv1.bias: checkpoint \[7\], model \[32\]"),
    ],
)
def test_a_wrong_checkpoint_is_refused_with_the_keys_at_fault(
    tmp_path: Path, key: str, tensor: Tensor | None, reason: str
) -> None:
    folder = stored(tmp_path, small_encoder())
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(key, None)
    save_file(tensors | ({} if tensor is None else {key: tensor}), folder / "model.safetensors")
    with pytest.raises(WeightsError, match=reason):
        SpeechTokenizer.from_pretrained(folder)


class Tone:
    """A decoder of one pitch a code, enough to see what reaches it."""

    sample_rate_hz, fingerprint = 100, "tone"

    def decode(self, codes: Tensor) -> Tensor:
        return codes.float().repeat_interleave(8)


def test_decoding_goes_through_the_decoder_given() -> None:
    tokenizer = SpeechTokenizer(small_encoder(), name="glm4voice", decoder=Tone())
    assert (
        tokenizer.decode(torch.tensor([3, 0, 255])).tolist() == [3.0] * 8 + [0.0] * 8 + [255.0] * 8
    )


@pytest.mark.parametrize(
    "codes", [torch.tensor([0, 256]), torch.tensor([-1]), torch.tensor([]), torch.ones(2, 2).int()]
)
def test_codes_that_cannot_be_decoded_are_refused(codes: Tensor) -> None:
    tokenizer = SpeechTokenizer(small_encoder(), name="glm4voice", decoder=Tone())
    with pytest.raises(CodeRangeError):
        tokenizer.decode(codes)


def test_an_encoder_alone_says_that_it_cannot_decode(tokenizer: SpeechTokenizer) -> None:
    with pytest.raises(WeightsError, match="without a decoder"):
        tokenizer.decode(torch.zeros(3, dtype=torch.int32))


def test_a_waveform_keeps_its_name_in_errors() -> None:
    with pytest.raises(MediaError, match="sample-9/audio0: holds no samples"):
        Waveform(np.zeros((1, 0), np.float32), RATE, "sample-9/audio0")
