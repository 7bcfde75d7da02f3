"""Files to codes and codes to files, with whichever tokenizers the user named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL.Image import Image as Picture

from omni_diffusion.errors import FingerprintError, MediaError, WeightsError
from omni_diffusion.tokenize.codes import Codes
from omni_diffusion.tokenize.image.preprocess import PRESETS, load_picture, to_pictures, to_pixels
from omni_diffusion.tokenize.image.tokenizer import ImageTokenizer
from omni_diffusion.tokenize.speech.audio import AudioFacts, describe, load_audio
from omni_diffusion.tokenize.speech.decoder import FlowDecoder
from omni_diffusion.tokenize.speech.tokenizer import SpeechDecoder, SpeechTokenizer
from omni_diffusion.tokenize.weights import DEMO

IMAGE = "showlab/magvitv2"
SPEECH = "zai-org/glm-4-voice-tokenizer"
SPEECH_DECODER = "zai-org/glm-4-voice-decoder"

CLIPPED_NOTED = 0.001
"""Share of samples at full scale from which a sound is said to be clipped."""

SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".oga")
"""Files that are taken for sounds; every other one is taken for a picture."""


@dataclass(frozen=True, kw_only=True)
class MediaTokenizers:
    """The tokenizers by name; each is loaded when it is first needed.

    Attributes:
        image: of pictures, see `ImageTokenizer.from_pretrained`.
        speech: of sounds, see `SpeechTokenizer.from_pretrained`.
        speech_decoder: what makes sounds of codes, see `FlowDecoder.from_pretrained`.
        resolution: length of a picture's shorter side in pixels.
        crop: whether a picture is cut to a square.
        device: where they run.
    """

    image: str = IMAGE
    speech: str = SPEECH
    speech_decoder: str = SPEECH_DECODER
    resolution: int = 256
    crop: bool = True
    device: str = "cpu"

    @classmethod
    def demo(cls, resolution: int = 256, crop: bool = True) -> MediaTokenizers:
        """The small ones that ship in the package."""
        names = {"image": DEMO, "speech": DEMO, "speech_decoder": DEMO}
        return cls(**names, resolution=resolution, crop=crop)

    @cached_property
    def image_tokenizer(self) -> ImageTokenizer:
        """Loaded on first use."""
        settings = replace(PRESETS["default"], crop="centre" if self.crop else "none")
        return ImageTokenizer.from_pretrained(self.image, self.device, preprocessing=settings)

    @cached_property
    def speech_tokenizer(self) -> SpeechTokenizer:
        """Loaded on first use."""
        return SpeechTokenizer.from_pretrained(self.speech, self.device)

    @cached_property
    def sounding(self) -> SpeechDecoder:
        """What decodes speech codes; the demo's comes with its tokenizer."""
        if self.speech_decoder != DEMO:
            return FlowDecoder.from_pretrained(self.speech_decoder, self.device)
        if self.speech != DEMO or self.speech_tokenizer.decoder is None:
            raise WeightsError("the demo decoder understands the demo tokenizer's codes only")
        return self.speech_tokenizer.decoder

    def encode_file(self, path: Path) -> Codes:
        """Codes of a picture or a sound.

        Raises:
            MediaError: the file cannot be used.
            WeightsError: the tokenizer cannot be loaded.
        """
        if path.suffix.lower() in SOUNDS:
            tokenizer, waveform = self.speech_tokenizer, load_audio(path)
            return Codes(
                codes=tokenizer.encode([waveform])[0],
                kind="speech",
                height=0,
                fingerprint=tokenizer.fingerprint,
                source=path.name,
                remarks=tuple(_remarks(describe(waveform))),
            )
        settings = self.image_tokenizer.preprocessing
        pixels = to_pixels(load_picture(path, settings), self.resolution, settings, str(path))
        return Codes(
            codes=self.image_tokenizer.encode(pixels[None])[0],
            kind="image",
            height=pixels.shape[1] // self.image_tokenizer.downsample_factor,
            fingerprint=self.image_tokenizer.fingerprint,
            source=path.name,
        )

    def decode_to_file(self, codes: Codes, stem: Path) -> Path:
        """Write the picture (`.png`) or the sound (`.wav`) that codes stand for.

        Args:
            codes: what to decode.
            stem: the file to write, without its extension.

        Raises:
            FingerprintError: another tokenizer made the codes.
            CodeRangeError: a code outside the code book.
        """
        if codes.kind == "image":
            target = stem.with_name(f"{stem.name}.png")
            self.picture(codes).save(target)
            return target
        samples, rate = self.sound(codes)
        target = stem.with_name(f"{stem.name}.wav")
        soundfile.write(target, samples, rate, "PCM_16")
        return target

    def picture(self, codes: Codes) -> Picture:
        """The picture that codes stand for; raises what `decode_to_file` raises."""
        _check_made_by(self.image_tokenizer, codes)
        pixels = self.image_tokenizer.decode(codes.codes[None], codes.grid)
        return to_pictures(pixels)[0]

    def sound(self, codes: Codes) -> tuple[NDArray[np.float32], int]:
        """The sound that codes stand for, and its rate in Hz.

        Returns:
            Samples from -1 to 1: a louder sound is turned down as a whole, not cut.

        Raises:
            MediaError: the decoder gave something that is no sound.
            FingerprintError: another tokenizer made the codes.
            CodeRangeError: a code outside the code book.
        """
        _check_family(self.speech, codes)
        samples = self.sounding.decode(codes.codes)
        if not torch.isfinite(samples).all():
            raise MediaError(codes.source, "the decoded sound is not finite")
        peak = float(samples.abs().max()) if len(samples) else 0.0
        return (samples / max(1.0, peak)).cpu().numpy(), self.sounding.sample_rate_hz


def is_demo(fingerprint: str) -> bool:
    """Whether a fingerprint is one of the demo tokenizers'."""
    return "-demo-" in fingerprint


def _remarks(facts: AudioFacts) -> Iterator[str]:
    """Silence and clipped sound have codes as any other, but are seldom what was meant."""
    if facts.silent:
        yield "silent: no sample reaches -80 dB of full scale"
    if facts.clipped_share >= CLIPPED_NOTED:
        yield f"clipped: {facts.clipped_share:.1%} of the samples are at full scale"


def _check_made_by(tokenizer: ImageTokenizer, codes: Codes) -> None:
    """How the picture was prepared does not matter on the way back, the weights do."""
    if not codes.fingerprint.startswith(tokenizer.weights_fingerprint):
        reason = f"made by {codes.fingerprint}, but the tokenizer at hand is "
        reason += tokenizer.fingerprint
        raise FingerprintError(codes.source, reason)


def _check_family(speech: str, codes: Codes) -> None:
    """A decoder understands the codes of one tokenizer, but does not need it loaded."""
    if is_demo(codes.fingerprint) != (speech == DEMO):
        reason = f"made by {codes.fingerprint}, which {speech} does not understand"
        raise FingerprintError(codes.source, reason)
