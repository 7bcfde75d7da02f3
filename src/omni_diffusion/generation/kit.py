"""A checkpoint with the tokenizers that it was trained with.

A checkpoint folder of ours says in `omni-diffusion.json` which tokenizers those are, by their
fingerprints. A fingerprint of the demo tokenizers is enough to take them; for others, names are
given or the published ones are taken. Tokens of another tokenizer would be noise to the model, so
fingerprints that differ are refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from omni_diffusion.backbone.checkpoint import CONFIG, load_dream
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.errors import FingerprintError, WeightsError
from omni_diffusion.generation.ask import Media
from omni_diffusion.tokenize.chat import ChatTemplate
from omni_diffusion.tokenize.image.preprocess import load_picture, to_pictures, to_pixels
from omni_diffusion.tokenize.media import IMAGE, SPEECH, SPEECH_DECODER, MediaTokenizers, is_demo
from omni_diffusion.tokenize.speech.audio import Waveform, load_audio, resample
from omni_diffusion.tokenize.speech.published_config import read_json
from omni_diffusion.tokenize.speech.sensevoice import SpeechFeatures
from omni_diffusion.tokenize.text import TextTokenizer
from omni_diffusion.tokenize.weights import DEMO, TOKENIZER_FILES, resolve_weights

Codes: TypeAlias = NDArray[np.integer[Any]]

ABOUT: Final = "omni-diffusion.json"
FEATURES: Final = "FunAudioLLM/SenseVoiceSmall"
SIDE_CODES: Final = 16
"""Codes along one side of a picture that the model draws."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """Tokenizers by name or folder; None takes what the checkpoint says, else the published ones.

    Attributes:
        text: text tokenizer.
        image: of pictures.
        speech: of sounds.
        speech_decoder: what makes sounds of codes.
        features: SenseVoice, for models that hear it.
    """

    text: str | None = None
    image: str | None = None
    speech: str | None = None
    speech_decoder: str | None = None
    features: str | None = None

    @classmethod
    def demo(cls) -> Names:
        """The small ones that ship in the package."""
        return cls(text=DEMO, image=DEMO, speech=DEMO, speech_decoder=DEMO)


@dataclass(frozen=True, kw_only=True)
class Sound:
    """Mono sound: float32 `[n]`."""

    samples: Tensor
    sample_rate_hz: int


class Kit:
    """See the module.

    Attributes:
        text: text tokenizer.
        template: the chat layout.
        demo: whether pictures and sounds go through the demo tokenizers.
        fingerprints: of the tokenizers that the checkpoint was trained with, as far as it says.
        padded: whether every sample that the model was trained with had a pad behind it.
    """

    def __init__(
        self,
        text: TextTokenizer,
        names: Names,
        fingerprints: Mapping[str, str] | None = None,
        device: str = "cpu",
        padded: bool = True,
    ) -> None:
        """Gather tokenizers; all but the text tokenizer are loaded when they are first needed.

        Raises:
            FingerprintError: the text tokenizer is another one than the checkpoint's.
        """
        self.text, self.template = text, ChatTemplate(text)
        self.fingerprints = dict(fingerprints or {})
        self.padded = padded
        self._check("text", text.fingerprint)
        known = [self.fingerprints.get(name, "") for name in ("image", "speech")]
        self.demo = names.image == DEMO or (names.image is None and any(map(is_demo, known)))
        standard = (DEMO,) * 3 if self.demo else (IMAGE, SPEECH, SPEECH_DECODER)
        given = (names.image, names.speech, names.speech_decoder)
        image, speech, decoder = (g or s for g, s in zip(given, standard, strict=True))
        self._media = MediaTokenizers(
            image=image, speech=speech, speech_decoder=decoder, device=device
        )
        self._features_name = names.features or FEATURES

    def picture_codes(self, picture: Media, pixels: int, name: str = "picture") -> Codes:
        """Native codes of a picture, cut to a square of so many pixels: int32 [n].

        Raises:
            MediaError: it cannot be read.
        """
        tokenizer = self._media.image_tokenizer
        self._check("image", tokenizer.fingerprint)
        settings = tokenizer.preprocessing
        label = name if isinstance(picture, bytes) else str(picture)
        loaded = load_picture(picture, settings, label)
        return tokenizer.encode(to_pixels(loaded, pixels, settings, label)[None])[0].cpu().numpy()

    def grey_square(self, picture: Media, pixels: int, name: str = "picture") -> Codes:
        """Grey levels of a picture, cut to a square as pictures are: uint8 [pixels, pixels].

        Raises:
            MediaError: it cannot be read.
        """
        label = name if isinstance(picture, bytes) else str(picture)
        square = to_pixels(load_picture(picture, name=label), pixels, name=label)
        return np.asarray(to_pictures(square[None])[0].convert("L"))

    def speech_codes(self, sound: Media, name: str = "sound") -> Codes:
        """Native codes of a sound, 12.5 a second: int32 [n].

        Raises:
            MediaError: it cannot be read.
        """
        tokenizer = self._media.speech_tokenizer
        self._check("speech", tokenizer.fingerprint)
        return tokenizer.encode([_load(sound, name)])[0].numpy()

    def speech_features(self, sound: Media, name: str = "sound") -> Tensor:
        """What a model with a speech encoder hears: float32 [frames, 560].

        Raises:
            MediaError: it cannot be read.
        """
        self._check("features", self._features.fingerprint)
        waveform = _load(sound, name)
        rates = waveform.sample_rate_hz, self._features.sample_rate_hz
        return self._features.features(
            torch.from_numpy(resample(waveform.channel("first"), *rates))
        )

    def draw(self, codes: Codes) -> Image.Image:
        """The picture of 256 native codes, 256 by 256 pixels."""
        tokenizer = self._media.image_tokenizer
        self._check("image", tokenizer.fingerprint)
        grid = SIDE_CODES, len(codes) // SIDE_CODES
        pixels = tokenizer.decode(torch.from_numpy(codes.astype(np.int64))[None], grid)
        return to_pictures(pixels)[0]

    def sound(self, codes: Codes) -> Sound:
        """The sound of native codes."""
        decoder = self._media.sounding
        samples = decoder.decode(torch.from_numpy(codes.astype(np.int64)))
        return Sound(samples=samples.cpu(), sample_rate_hz=decoder.sample_rate_hz)

    def describe(self) -> dict[str, Any]:
        """Names and fingerprints, to repeat a run."""
        media = self._media
        return {
            "text": self.text.fingerprint,
            "image": media.image,
            "speech": media.speech,
            "speech_decoder": media.speech_decoder,
            "trained_with": self.fingerprints,
        }

    @cached_property
    def _features(self) -> SpeechFeatures:
        return SpeechFeatures.from_pretrained(self._features_name)

    def _check(self, name: str, ours: str) -> None:
        theirs = self.fingerprints.get(name, ours)
        if theirs != ours:
            reason = f"the checkpoint was trained with {theirs}, at hand is {ours}"
            raise FingerprintError(f"{name} tokenizer", reason)


def load_checkpoint(
    name_or_path: str | os.PathLike[str],
    names: Names,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[Dream, Kit]:
    """The model in a checkpoint folder, and its tokenizers.

    Args:
        name_or_path: a folder such as `RUN/model`, a run folder that holds one, or a hub name.
        names: tokenizers; see `Names`.
        device: where model and tokenizers go.
        dtype: of the model.

    Raises:
        WeightsError: something is absent or damaged, or the model's vocabulary is not the text
            tokenizer's.
        FingerprintError: the tokenizers are not those that it was trained with.
    """
    folder = resolve_weights(name_or_path)
    if not (folder / CONFIG).is_file() and (folder / "model" / CONFIG).is_file():
        folder = folder / "model"
    about = read_json(folder / ABOUT) if (folder / ABOUT).is_file() else {}
    text = _text_tokenizer(folder, names.text, about)
    DreamConfig.from_json(folder / CONFIG).check_vocabulary(text.vocabulary)
    trained = about.get("vocabulary", {})
    kit = Kit(
        text,
        names,
        {
            name: trained[name]
            for name in ("text", "image", "speech", "features")
            if name in trained
        },
        device,
        padded=about.get("tail_pads") != 0,
    )
    model = load_dream(folder, vocabulary=text.vocabulary, device=device, dtype=dtype).eval()
    return model, kit


def _text_tokenizer(folder: Path, name: str | None, about: Mapping[str, Any]) -> TextTokenizer:
    """The one that was named, that lies in the folder, or that the folder names."""
    if name is not None:
        return TextTokenizer.from_pretrained(name)
    if any(next(folder.glob(pattern), None) for pattern in TOKENIZER_FILES):
        return TextTokenizer.from_pretrained(folder)
    named = about.get("tokenizer")
    if not isinstance(named, str):
        raise WeightsError(
            f"{folder}: holds no text tokenizer and names none; give --text-tokenizer NAME "
            "(`demo` for a model over the demo vocabulary)"
        )
    return TextTokenizer.from_pretrained(named)


def _load(sound: Media, name: str) -> Waveform:
    return load_audio(sound, name=name if isinstance(sound, bytes) else str(sound))
