"""Waveforms to GLM-4-Voice codes and back: 16,384 codes, 12.5 a second.

The result for a recording depends on that recording alone: its log-mel features are taken over its
own length (where the published code pads to the longest of the batch first, which moves the last
feature frame), and padding is masked. On the CPU every segment is a batch of its own, which makes
equality exact to the last bit; sharing batches would save a fifth of the time on clips of 2 s and
less on longer ones. On a GPU segments of similar length share a batch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import xxhash
from torch import Tensor

from omni_diffusion import tokenize
from omni_diffusion.errors import CodeRangeError, MediaError, WeightsError
from omni_diffusion.tokenize.speech.audio import (
    MAX_CHANNELS,
    ChannelPolicy,
    Waveform,
    resample,
    resampled_length,
)
from omni_diffusion.tokenize.speech.griffin_lim import (
    GriffinLimDecoder,
    MelDecoder,
    MelDecoderConfig,
)
from omni_diffusion.tokenize.speech.mel import HOP_LENGTH, N_FFT, N_MELS, SAMPLE_RATE_HZ, log_mel
from omni_diffusion.tokenize.speech.whisper_vq import (
    FRAMES_PER_MEL_STEP,
    UNUSED_KEYS,
    WhisperVQConfig,
    WhisperVQEncoder,
)
from omni_diffusion.tokenize.weights import (
    DEMO,
    load_into,
    load_tensors,
    resolve_weights,
    tensors_digest,
)

SEGMENT_S = 30
_SEGMENT_SAMPLES = SEGMENT_S * SAMPLE_RATE_HZ
_SAMPLES_PER_FRAME = HOP_LENGTH * FRAMES_PER_MEL_STEP

_SEGMENTS_HELD = 64
_BATCH_FRAMES_GPU = 16_384


class SpeechDecoder(Protocol):
    """What turns codes back into sound.

    Attributes:
        sample_rate_hz: of the sound it makes.
        fingerprint: names weights and method.
    """

    sample_rate_hz: int
    fingerprint: str

    def decode(self, codes: Tensor) -> Tensor:
        """Sound of int codes `[n]`: float32 `[samples]`."""
        ...


@dataclass(frozen=True)
class _Segment:
    """At most 30 s of one recording, at 16 kHz."""

    owner: int
    samples: Tensor


class SpeechTokenizer:
    """GLM-4-Voice's speech tokenizer; build it with `from_pretrained`.

    Attributes:
        codebook_size: codes are 0 up to this (exclusive).
        codes_per_second: 12.5.
        fingerprint: equal for two tokenizers exactly when weights, preprocessing and precision
            are; `glm4voice-` (`glm4voice-demo-` for the demo weights) and 16 hex digits.
        decoder: turns codes into sound; None where none was given.
        batch_frames: most frames (20 ms, padding included) that are encoded together; with 0 every
            segment goes alone.
        encoder: the network, in eval mode on its device.
    """

    def __init__(
        self,
        encoder: WhisperVQEncoder,
        *,
        name: str,
        channel: ChannelPolicy = "first",
        decoder: SpeechDecoder | None = None,
    ) -> None:
        """Wrap an encoder that is loaded, in eval mode and on its device."""
        self.encoder, self._channel, self.decoder = encoder, channel, decoder
        weights = encoder.codebook.weight
        self._device, self._dtype = weights.device, weights.dtype
        self.batch_frames = _BATCH_FRAMES_GPU if self._device.type == "cuda" else 0
        self._samples_per_code = _SAMPLES_PER_FRAME * encoder.config.pooling_kernel_size
        self.codebook_size = encoder.config.quantize_vocab_size
        self.codes_per_second = SAMPLE_RATE_HZ / self._samples_per_code
        self.fingerprint = f"{name}-{self._digest()}"

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        decoder: SpeechDecoder | None = None,
        *,
        channel: ChannelPolicy = "first",
        allow_inexact: bool = False,
    ) -> SpeechTokenizer:
        """Load the published tokenizer, or the demo one that ships in the package.

        Args:
            name_or_path: hub name (`zai-org/glm-4-voice-tokenizer`), a folder with `config.json`
                and `model.safetensors`, or `demo`.
            device: where the encoder runs.
            dtype: float32, unless `allow_inexact`.
            decoder: for `decode`; the demo brings its own.
            channel: which channel of a recording is tokenized.
            allow_inexact: permit bfloat16 and float16, whose codes differ from the published.

        Raises:
            WeightsError: weights absent or of another layout, or a dtype that is not allowed.
        """
        if dtype != torch.float32 and not allow_inexact:
            raise WeightsError(
                f"{name_or_path}: {dtype} gives other codes than the published float32; "
                "pass allow_inexact=True to accept that"
            )
        if str(name_or_path) == DEMO:
            with resources.as_file(resources.files(tokenize) / DEMO) as folder:
                encoder, own_decoder = load_demo(folder)
            name, decoder = "glm4voice-demo", decoder or own_decoder
        else:
            encoder, name = _load_published(resolve_weights(name_or_path)), "glm4voice"
        encoder = encoder.to(device=device, dtype=dtype).eval()
        return cls(encoder, name=name, channel=channel, decoder=decoder)

    def _digest(self) -> str:
        settings = {
            "weights": tensors_digest(self.encoder.state_dict()),
            "channel": self._channel,
            "dtype": str(self._dtype),
            "features": [SAMPLE_RATE_HZ, N_FFT, HOP_LENGTH, N_MELS, SEGMENT_S],
            "block": self.encoder.config.quantize_causal_block_size,
            "heads": self.encoder.config.encoder_attention_heads,
        }
        return xxhash.xxh3_64_hexdigest(json.dumps(settings, sort_keys=True).encode())

    def n_codes(self, n_samples: int, sample_rate_hz: int) -> int:
        """Codes that a recording of this length gives: one for every 80 ms begun."""
        at_16_khz = resampled_length(n_samples, sample_rate_hz, SAMPLE_RATE_HZ)
        return -(-at_16_khz // self._samples_per_code)

    @torch.inference_mode()
    def encode(self, waveforms: Sequence[Waveform | tuple[Any, int]]) -> list[Tensor]:
        """Codes of recordings of any mix of lengths and sample rates.

        Args:
            waveforms: `Waveform`s, or pairs of samples (float32 array or tensor, `[n]` or
                `[channels, n]`, full scale 1.0) and sample rate in Hz.

        Returns:
            One int32 tensor `[n_codes]` a recording, on the CPU, in the order given.

        Raises:
            MediaError: a recording is empty, not finite, not float32 or has more than two channels;
                names which one.
        """
        checked = [_as_waveform(item, index) for index, item in enumerate(waveforms)]
        found: list[list[Tensor]] = [[] for _ in checked]
        pending = self._segments(checked)
        # A bounded number of segments is held at once, so memory does not grow with duration.
        while window := list(islice(pending, _SEGMENTS_HELD)):
            codes: dict[int, Tensor] = {}
            for group in self._groups(window):
                rows = self._encode_group([window[index].samples for index in group])
                codes.update(zip(group, rows, strict=True))
            for index, segment in enumerate(window):
                found[segment.owner].append(codes[index])
        return [torch.cat(parts) for parts in found]

    def _segments(self, waveforms: Iterable[Waveform]) -> Iterator[_Segment]:
        for owner, waveform in enumerate(waveforms):
            samples, rate = waveform.channel(self._channel), waveform.sample_rate_hz
            total = resampled_length(len(samples), rate, SAMPLE_RATE_HZ)
            for start in range(0, total, _SEGMENT_SAMPLES):
                piece = resample(samples, rate, SAMPLE_RATE_HZ, start, start + _SEGMENT_SAMPLES)
                yield _Segment(owner, torch.from_numpy(np.ascontiguousarray(piece)))

    def _groups(self, segments: Sequence[_Segment]) -> Iterator[list[int]]:
        """Indices of segments that share a batch: neighbours in length, within the budget."""
        group: list[int] = []
        for index in sorted(range(len(segments)), key=lambda i: len(segments[i].samples)):
            frames = -(-len(segments[index].samples) // _SAMPLES_PER_FRAME)
            if group and frames * (len(group) + 1) > self.batch_frames:
                yield group
                group = []
            group.append(index)
        yield group

    def _encode_group(self, segments: Sequence[Tensor]) -> list[Tensor]:
        """Int32 codes, on the CPU, of segments at 16 kHz that are batched together."""
        n_codes = [-(-len(samples) // self._samples_per_code) for samples in segments]
        n_frames = [-(-len(samples) // _SAMPLES_PER_FRAME) for samples in segments]
        mel_steps = self._samples_per_code // HOP_LENGTH
        batch = torch.zeros(
            len(segments), N_MELS, max(n_codes) * mel_steps, device=self._device, dtype=self._dtype
        )
        for row, samples, count in zip(batch, segments, n_codes, strict=True):
            whole = torch.zeros(count * self._samples_per_code)
            whole[: len(samples)] = samples
            row[:, : count * mel_steps] = log_mel(whole.to(self._device))
        codes = self.encoder(batch, torch.tensor(n_frames, device=self._device))
        codes = codes.to(device="cpu", dtype=torch.int32)
        return [row[:count] for row, count in zip(codes, n_codes, strict=True)]

    def decode(self, codes: Tensor) -> Tensor:
        """Sound of codes.

        Args:
            codes: integers `[n]`, n at least 1.

        Returns:
            float32 `[samples]` at `decoder.sample_rate_hz`.

        Raises:
            CodeRangeError: not a row of codes, or a code outside the codebook.
            WeightsError: the tokenizer was built without a decoder.
        """
        if self.decoder is None:
            raise WeightsError("this speech tokenizer was built without a decoder: it only encodes")
        if codes.dim() != 1 or codes.numel() == 0 or codes.is_floating_point():
            raise CodeRangeError(f"speech codes must be integers [n], not {list(codes.shape)}")
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= self.codebook_size:
            raise CodeRangeError(f"speech codes {low}..{high} outside 0..{self.codebook_size - 1}")
        return self.decoder.decode(codes)


def _as_waveform(item: Waveform | tuple[Any, int], index: int) -> Waveform:
    """Check and wrap a pair of samples and rate."""
    if isinstance(item, Waveform):
        return item
    samples, rate = item
    array = samples.detach().cpu().numpy() if isinstance(samples, Tensor) else np.asarray(samples)
    source = f"waveform {index}"
    if array.ndim not in (1, 2) or array.dtype != np.float32:
        raise MediaError(source, f"must be float32 [n] or [channels, n], not {array.dtype}")
    # Samples by channels, the other way round, would look like thousands of channels.
    if array.ndim == 2 and len(array) > MAX_CHANNELS:
        reason = f"has {len(array)} channels, more than {MAX_CHANNELS}; a Waveform may have more"
        raise MediaError(source, reason)
    return Waveform(np.atleast_2d(array), int(rate), source)


def _empty_encoder(config: WhisperVQConfig) -> WhisperVQEncoder:
    """An encoder whose weights are allocated but not drawn: they are about to be loaded."""
    with torch.device("meta"):
        encoder = WhisperVQEncoder(config)
    return encoder.to_empty(device="cpu")


def _load_published(folder: Path) -> WhisperVQEncoder:
    encoder = _empty_encoder(WhisperVQConfig.from_file(folder / "config.json"))
    weights = folder / "model.safetensors"
    load_into(encoder, load_tensors(weights), weights, ignore=UNUSED_KEYS)
    return encoder


def load_demo(folder: Path) -> tuple[WhisperVQEncoder, GriffinLimDecoder]:
    """Read the demo encoder and decoder from the folder that `tools/demo_tokenizers` wrote.

    Raises:
        WeightsError: the files are absent or do not fit.
    """
    config_file, weights = folder / "speech.json", folder / "speech.safetensors"
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{config_file}: cannot be read as a configuration: {error}") from error
    tensors, prefix = load_tensors(weights), "decoder."
    encoder = _empty_encoder(WhisperVQConfig.from_dict(config["encoder"], config_file))
    load_into(encoder, tensors, weights, ignore=[prefix])
    network = MelDecoder(MelDecoderConfig(**config["decoder"]))
    own = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    load_into(network, own, weights)
    fingerprint = f"griffinlim-demo-{tensors_digest(tensors)}"
    return encoder, GriffinLimDecoder(encoder.codebook.weight.detach(), network, fingerprint)
