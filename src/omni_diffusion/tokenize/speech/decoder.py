"""Speech codes to sound: GLM-4-Voice's decoder, as one call.

The published system (zai-org/glm-4-voice-decoder) turns 12.5 codes a second into a mel
spectrogram by flow matching (`flow.py`) and that into 22,050 Hz sound by a vocoder (`hift.py`).
Both need noise. Upstream reseeds the global generator with 42 on every call; here a CPU generator
of its own, seeded with 42, is drawn from in the same order: the sound is the one that upstream
makes on a CPU, whatever the device, and nothing else is disturbed.

Long input: attention over all frames makes one pass over everything costly without bound. Up to
`window_codes` (51.2 s) it is one pass, exactly as upstream. Longer input is decoded in windows of
that length, each the continuation of the second half of the one before: upstream's own prompt
mechanism, with the prompt cut to the nearest past. Windows begin at multiples of both the
encoder's block and the shortest run of codes that fills whole mel frames, so blocks and frames
fall where a single pass would put them. What grows with the input is then only the mel
spectrogram and the signals, not the work space of the networks.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path

import torch
import xxhash
from torch import Tensor

from omni_diffusion.errors import CodeRangeError, MediaError, OmniError, WeightsError
from omni_diffusion.tokenize.speech.decoder_config import DecoderConfig
from omni_diffusion.tokenize.speech.flow import MEL_SAMPLE_RATE_HZ, SpeechFlow
from omni_diffusion.tokenize.speech.hift import HiFT, fold_weight_norm
from omni_diffusion.tokenize.weights import (
    load_into,
    load_tensors,
    resolve_weights,
    tensors_digest,
)

NOISE_SEED = 42
"""Seed of the published decoder."""
EULER_STEPS = 10
OVERLAP_CODES = 5
"""Codes (0.4 s) at a window's end that the next window decodes again, knowing what follows."""


class FlowDecoder:
    """Published speech decoder, ready to run.

    Attributes:
        sample_rate_hz: 22,050.
        codebook_size: codes lie in 0..codebook_size - 1.
        window_codes: longest input that is decoded in one pass.
        fingerprint: equal for two decoders exactly when weights and settings are.
    """

    def __init__(self, flow: SpeechFlow, hift: HiFT, fingerprint: str) -> None:
        """Join two loaded networks; `from_pretrained` is the usual way.

        Args:
            flow: codes to mel, in eval mode, on its device and in its dtype.
            hift: mel to sound, in eval mode, float32, on the same device.
            fingerprint: names weights and settings.
        """
        self.flow, self.hift, self.fingerprint = flow, hift, fingerprint
        self.sample_rate_hz = MEL_SAMPLE_RATE_HZ
        self.codebook_size = flow.config.vocab_size
        aligned = math.lcm(flow.config.encoder.block_size, flow.config.frames_per_code.denominator)
        self.window_codes = 2 * aligned

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> FlowDecoder:
        """Load a decoder.

        Args:
            name_or_path: `zai-org/glm-4-voice-decoder` or a folder with `flow.pt` and `hift.pt`
                (or `.safetensors` of the same names) and, where the sizes differ from the
                published ones, `config.json`.
            device: where to run.
            dtype: of the flow model; the vocoder always runs in float32.

        Raises:
            WeightsError: files are absent, unreadable or do not fit the configuration.
        """
        folder = resolve_weights(name_or_path)
        config = DecoderConfig.from_folder(folder)
        flow_file, hift_file = _weights_file(folder, "flow"), _weights_file(folder, "hift")
        flow_tensors, hift_tensors = load_tensors(flow_file), load_tensors(hift_file)
        # On the meta device no parameter is initialised: quicker, and no random number is drawn.
        with torch.device("meta"):
            flow, hift = SpeechFlow(config.flow), HiFT(config.hift)
        flow, hift = flow.to_empty(device="cpu").to(dtype), hift.to_empty(device="cpu")
        load_into(flow, flow_tensors, flow_file)
        load_into(hift, fold_weight_norm(hift_tensors, hift_file), hift_file)
        settings = json.dumps([asdict(config), str(dtype), NOISE_SEED], sort_keys=True)
        parts = [tensors_digest(flow_tensors), tensors_digest(hift_tensors), settings]
        fingerprint = f"glm4voice-decoder-{xxhash.xxh3_64_hexdigest(' '.join(parts).encode())}"
        return cls(flow.eval().to(device), hift.eval().to(device), fingerprint)

    @torch.no_grad()
    def decode(self, codes: Tensor, *, steps: int = EULER_STEPS, seed: int = NOISE_SEED) -> Tensor:
        """Turn speech codes into sound.

        Args:
            codes: integers [N], N at least 1, each in 0..codebook_size - 1, 80 ms apiece.
            steps: Euler steps; the published decoder takes 10, fewer is faster and rougher.
            seed: of the noise. Equal codes, steps and seed give equal sound.

        Returns:
            float32 [n] on the CPU, within plus or minus 1, 22,050 a second;
            n = 256 * floor(N * 6.890625).

        Raises:
            MediaError: `codes` is empty, not one-dimensional or not of an integer dtype.
            CodeRangeError: a code lies outside the code book.
            OmniError: `steps` is less than 1.
        """
        codes = self._checked(codes)
        if steps < 1:
            raise OmniError(f"steps is {steps}, the solver needs at least 1")
        generator = torch.Generator().manual_seed(seed)
        mel = self.mel(codes, generator, steps).float()
        source = self.hift.source(self.hift.pitch(mel), generator)
        waveform: Tensor = self.hift(mel, source)[0].cpu()
        return waveform

    @torch.no_grad()
    def mel(self, codes: Tensor, generator: torch.Generator, steps: int = EULER_STEPS) -> Tensor:
        """Mel spectrogram of int64 codes [N] within range, in windows where they are many.

        Returns:
            log mel [1, bands, floor(N * frames_per_code)] in the flow model's dtype and device.
        """
        config, device = self.flow.config, self.flow.encoder_proj.weight.device
        codes = codes.to(device)
        overlap, half = config.frames(OVERLAP_CODES), self.window_codes // 2

        def window(start: int, prompt: Tensor | None) -> Tensor:
            part = codes[None, start : start + self.window_codes]
            shape = (1, config.output_size, config.frames(part.shape[1]))
            noise = torch.randn(shape, generator=generator).to(device)
            decoded: Tensor = self.flow(part, noise, prompt, steps)
            return decoded

        mel = window(0, None)
        # Each further window adds up to `half` codes; `start` is the code where it begins.
        for start in range(half, len(codes) - half, half):
            settled = mel[:, :, :-overlap]
            prompt = settled[:, :, config.frames(start) :]
            fresh = window(start, prompt)[:, :, prompt.shape[2] :]
            rising = torch.linspace(0, 1, overlap + 2, device=device, dtype=mel.dtype)[1:-1]
            joint = torch.lerp(mel[:, :, -overlap:], fresh[:, :, :overlap], rising)
            mel = torch.cat((settled, joint, fresh[:, :, overlap:]), dim=2)
        return mel

    def _checked(self, codes: Tensor) -> Tensor:
        """The codes as int64, unless there is something wrong with them."""
        fractional = codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool
        if codes.dim() != 1 or fractional:
            kind = f"{codes.dtype} {list(codes.shape)}"
            raise MediaError("speech codes", f"expected integers [N], not {kind}")
        codes = codes.long()
        if len(codes) == 0:
            raise MediaError("speech codes", "there is none, so there is no sound to make")
        wrong = ((codes < 0) | (codes >= self.codebook_size)).nonzero()
        if len(wrong):
            position = int(wrong[0])
            raise CodeRangeError(
                f"speech code {int(codes[position])} at position {position} "
                f"({len(wrong)} in all) lies outside 0..{self.codebook_size - 1}"
            )
        return codes


def _weights_file(folder: Path, stem: str) -> Path:
    """The file that holds one of the two networks."""
    for name in (f"{stem}.safetensors", f"{stem}.pt"):
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"{folder}: holds neither {stem}.safetensors nor {stem}.pt")
