"""Speech as Omni-Diffusion hears it: SenseVoice features, ready to use.

Speech reaches the language model as continuous vectors: Kaldi features (`fbank.py`), the frozen
encoder (`sanm.py`) and a projector that is trained with the language model. The weights come in
two layouts with the same inner names:

* FunAudioLLM/SenseVoiceSmall: `model.pt` with `encoder.*`, `embed.*` and, unused here, `ctc.*`;
* Omni-Diffusion: safetensors, in one file or many, with those under `model.audio_model.model.` and
  the projector under `model.audio_projection.` among the keys of the language model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from torch import Tensor

from omni_diffusion.errors import MediaError, WeightsError
from omni_diffusion.tokenize.speech.fbank import (
    FEATURE_SIZE,
    HOP_LENGTH,
    N_MELS,
    SAMPLE_RATE_HZ,
    STACK_HOP,
    STACKED_FRAMES,
    Normalisation,
    sensevoice_features,
)
from omni_diffusion.tokenize.speech.published_config import fill, read_json, require, subsection
from omni_diffusion.tokenize.speech.sanm import (
    QUERIES,
    AudioProjector,
    SenseVoiceConfig,
    SenseVoiceEncoder,
)
from omni_diffusion.tokenize.weights import (
    load_into,
    load_tensors,
    resolve_weights,
    tensors_digest,
)

ENCODER_PREFIX = "model.audio_model.model."
PROJECTOR_PREFIX = "model.audio_projection."
UNUSED_KEYS = ("ctc.",)
"""The speech recognition head: Omni-Diffusion takes the encoder's output instead."""

_TOP_FIXED = {
    "frontend": "WavFrontend",
    "encoder": "SenseVoiceEncoderSmall",
    "input_size": FEATURE_SIZE,
}
_FRONTEND_FIXED = {
    "fs": SAMPLE_RATE_HZ,
    "window": "hamming",
    "n_mels": N_MELS,
    "frame_length": 25,
    "frame_shift": HOP_LENGTH * 1000 // SAMPLE_RATE_HZ,
    "lfr_m": STACKED_FRAMES,
    "lfr_n": STACK_HOP,
}
_ENCODER_FIXED = {
    "input_layer": "pe",
    "pos_enc_class": "SinusoidalPositionEncoder",
    "normalize_before": True,
    "sanm_shfit": 0,
    "selfattention_layer_type": "sanm",
}
_ENCODER_UNUSED = ("dropout_rate", "positional_dropout_rate", "attention_dropout_rate")


class SpeechFeatures:
    """Front end and encoder, and the projector where the checkpoint has one.

    Attributes:
        sample_rate_hz: 16,000, of the waveforms that `features` takes.
        encoder: the frozen encoder, in eval mode.
        projector: to the language model's width; None for SenseVoiceSmall itself.
        fingerprint: equal for two objects exactly when encoder, statistics and dtype are; the
            projector has no part in it, because it is trained.
    """

    def __init__(
        self,
        encoder: SenseVoiceEncoder,
        normalisation: Normalisation,
        projector: AudioProjector | None,
        fingerprint: str,
    ) -> None:
        """Join loaded parts; `from_pretrained` is the usual way."""
        self.sample_rate_hz = SAMPLE_RATE_HZ
        self.encoder, self.projector = encoder, projector
        self.fingerprint = fingerprint
        self._normalisation = normalisation

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        statistics: str | os.PathLike[str] | None = None,
    ) -> SpeechFeatures:
        """Load encoder, statistics and, where there is one, the projector.

        Args:
            name_or_path: `FunAudioLLM/SenseVoiceSmall`, an Omni-Diffusion checkpoint, or a folder
                with the files of either.
            device: where to run encoder and projector.
            dtype: of encoder and projector. Upstream runs bfloat16, which moves its output by up
                to 0.06.
            statistics: the `am.mvn` file; that of the weights' folder by default.

        Raises:
            WeightsError: files are absent, unreadable or do not fit the configuration.
        """
        folder = resolve_weights(name_or_path)
        encoder_tensors, projector_tensors = _split(_load(folder))
        config = _read_config(folder / "config.json")
        # On the meta device no parameter is initialised: quicker, and no random number is drawn.
        with torch.device("meta"):
            encoder = SenseVoiceEncoder(config)
        encoder = encoder.to_empty(device="cpu").to(dtype)
        load_into(encoder, encoder_tensors, folder)
        projector = _build_projector(projector_tensors, config, folder)
        if projector is not None:
            projector = projector.to(device, dtype).eval()
        normalisation = Normalisation.from_file(_statistics_file(folder, statistics))
        cmvn = {"shift": normalisation.shift, "scale": normalisation.scale}
        settings = json.dumps([asdict(config), QUERIES, str(dtype)], sort_keys=True)
        parts = [tensors_digest(encoder_tensors), tensors_digest(cmvn), settings]
        fingerprint = f"sensevoice-{xxhash.xxh3_64_hexdigest(' '.join(parts).encode())}"
        return cls(encoder.to(device).eval(), normalisation, projector, fingerprint)

    def features(self, waveform: Tensor) -> Tensor:
        """Input vectors of one recording, computed on the CPU.

        Args:
            waveform: float [samples] at 16 kHz within plus or minus 1, at least 400 samples.

        Returns:
            float32 [frames, 560], one frame for 60 ms.

        Raises:
            MediaError: the waveform has another shape or type, is too short or is not finite.
        """
        return sensevoice_features(waveform.cpu(), self._normalisation)

    @torch.no_grad()
    def encode(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Encode recordings of any mix of lengths as one padded batch.

        Args:
            features: for each recording what `features` returned, [frames, 560].

        Returns:
            For each, [frames + 4, width] in the encoder's dtype and on its device, the same
            whatever else is in the batch (up to rounding).

        Raises:
            MediaError: an item has another shape or no frame.
        """
        for index, item in enumerate(features):
            if item.dim() != 2 or item.shape[1] != FEATURE_SIZE or len(item) == 0:
                raise MediaError(
                    f"features {index}",
                    f"expected [frames, {FEATURE_SIZE}] with a frame, not {list(item.shape)}",
                )
        encoded: list[Tensor] = self.encoder(features) if features else []
        return encoded


def _read_config(path: Path) -> SenseVoiceConfig:
    """The encoder's sizes; the published ones unless `config.json` describes an encoder.

    The `config.json` of an Omni-Diffusion checkpoint describes the language model.
    """
    raw = read_json(path) if path.exists() else {}
    if "encoder_conf" not in raw:
        return SenseVoiceConfig()
    require(raw, f"{path}", _TOP_FIXED)
    frontend = subsection(raw, "frontend_conf", f"{path}")
    require(frontend, f"{path}: frontend_conf", _FRONTEND_FIXED)
    encoder = subsection(raw, "encoder_conf", f"{path}")
    config = fill(
        SenseVoiceConfig, encoder, f"{path}: encoder_conf", _ENCODER_FIXED, _ENCODER_UNUSED
    )
    projector = subsection(raw, "projector", f"{path}")
    require(projector, f"{path}: projector", {"proj_input_size": config.output_size})
    if config.output_size % 2 or config.output_size % max(config.attention_heads, 1):
        raise WeightsError(f"{path}: output_size must be an even multiple of attention_heads")
    if min(config.attention_heads, config.num_blocks) < 1 or config.kernel_size % 2 == 0:
        raise WeightsError(f"{path}: heads and blocks must be positive, kernel_size odd")
    return config


def _load(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder that belong to speech, under their names in the checkpoint."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        if (folder / "model.pt").is_file():
            return load_tensors(folder / "model.pt")
        raise WeightsError(f"{folder}: holds neither model.pt nor safetensors files")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            # Key by key: an Omni-Diffusion checkpoint holds 15 GB of language model as well.
            with safe_open(file, framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118 - not a mapping
                    if key.startswith((ENCODER_PREFIX, PROJECTOR_PREFIX, "encoder.", "embed.")):
                        tensors[key] = opened.get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{file}: cannot be read as weights: {error}") from error
    return tensors


def _split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Encoder and projector, each under the names that its module uses."""

    def below(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

    omni = any(key.startswith(ENCODER_PREFIX) for key in tensors)
    encoder = below(ENCODER_PREFIX if omni else "")
    used = {key: t for key, t in encoder.items() if not key.startswith(UNUSED_KEYS)}
    return used, below(PROJECTOR_PREFIX)


def _build_projector(
    tensors: Mapping[str, Tensor], config: SenseVoiceConfig, folder: Path
) -> AudioProjector | None:
    """The projector, as wide as its first layer says; None where the checkpoint has none."""
    if not tensors:
        return None
    first = tensors.get("mlp.0.weight")
    width = first.shape[0] if first is not None else config.output_size
    with torch.device("meta"):
        projector = AudioProjector(config.output_size, width)
    projector = projector.to_empty(device="cpu")
    load_into(projector, tensors, folder)
    return projector


def _statistics_file(folder: Path, given: str | os.PathLike[str] | None) -> Path:
    """Where `am.mvn` is."""
    path = Path(given) if given is not None else folder / "am.mvn"
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file; it belongs to FunAudioLLM/SenseVoiceSmall and is given as "
            "`statistics` where the weights come without it"
        )
    return path
