"""Speech tokens to mel spectrogram: the flow-matching half of the GLM-4-Voice decoder.

`SpeechFlow` is CosyVoice's flow model (arXiv 2407.05407, section 2.3) as THUDM/GLM-4-Voice
configures it: token embeddings, a block-causal conformer, a length regulator that stretches 12.5
tokens to 86.13 mel frames a second, and an ordinary differential equation from noise to mel whose
velocity a 1-D U-Net predicts (`flow_estimator.py`). The equation is solved by Euler steps on a
cosine schedule with classifier-free guidance.

Module names follow the keys of the published `flow.pt`. The noise is an argument: this module
draws no random number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from omni_diffusion.tokenize.speech.conformer import BlockConformer, ConformerConfig
from omni_diffusion.tokenize.speech.flow_estimator import Estimator, EstimatorConfig

MEL_SAMPLE_RATE_HZ = 22_050
MEL_HOP_LENGTH = 256
"""Samples a mel frame; with the rate above, 86.13 frames a second."""


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Shape of the flow model; defaults are those of zai-org/glm-4-voice-decoder.

    Attributes:
        input_size: width of the token embeddings.
        output_size: mel bands.
        spk_embed_dim: width of the speaker vector; the published model runs with zeros.
        vocab_size: number of speech codes.
        input_frame_rate: speech codes a second.
        regulator_layers: convolution layers of the length regulator.
        inference_cfg_rate: guidance strength; the velocity is
            `(1 + rate) * conditional - rate * unconditional`.
        encoder: the conformer.
        estimator: the U-Net.
    """

    input_size: int = 512
    output_size: int = 80
    spk_embed_dim: int = 192
    vocab_size: int = 16_384
    input_frame_rate: float = 12.5
    regulator_layers: int = 4
    inference_cfg_rate: float = 0.7
    encoder: ConformerConfig = field(default_factory=ConformerConfig)
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)

    @property
    def frames_per_code(self) -> Fraction:
        """Mel frames that one code stands for, exactly (441 / 64 in the published model)."""
        frame_rate = Fraction(MEL_SAMPLE_RATE_HZ, MEL_HOP_LENGTH)
        return frame_rate / Fraction(self.input_frame_rate).limit_denominator(100)

    def frames(self, codes: int) -> int:
        """Mel frames of `codes` speech codes, rounded down."""
        return int(codes * self.frames_per_code)


class LengthRegulator(nn.Module):
    """Stretches the encoded tokens to mel frames and smooths them."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        stack: list[nn.Module] = []
        for _ in range(layers):
            stack += [nn.Conv1d(channels, channels, 3, padding=1), nn.GroupNorm(1, channels)]
            stack += [nn.Mish()]
        self.model = nn.Sequential(*stack, nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """Map [batch, length, channels] to [batch, frames, channels]."""
        stretched = functional.interpolate(x.transpose(1, 2), size=frames, mode="nearest")
        smoothed: Tensor = self.model(stretched)
        return smoothed.transpose(1, 2)


class FlowSolver(nn.Module):
    """Integrates the estimated velocity from noise (time 0) to mel (time 1)."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.guidance = config.inference_cfg_rate
        self.estimator = Estimator(config.estimator)

    def forward(self, noise: Tensor, condition: Tensor, steps: int) -> Tensor:
        """Solve.

        Args:
            noise: [1, bands, frames].
            condition: [1, in_channels - bands, frames]: encoded tokens, speaker and prompt mel.
            steps: Euler steps, at least 1.

        Returns:
            Mel [1, bands, frames].
        """
        # Guided and unguided velocity come from one batch of two: zeros mean "no condition".
        conditions = torch.cat((condition, torch.zeros_like(condition)))
        grid = torch.linspace(0, 1, steps + 1, device=noise.device)
        mel = noise
        for start, end in pairwise(1 - torch.cos(grid * 0.5 * torch.pi)):
            both = torch.cat((mel.expand(2, -1, -1), conditions), dim=1)
            guided, unguided = self.estimator(both, start).chunk(2)
            velocity = (1 + self.guidance) * guided - self.guidance * unguided
            mel = mel + (end - start).to(mel.dtype) * velocity
        return mel


class SpeechFlow(nn.Module):
    """The whole model, keys as in `flow.pt`."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        bands, width = config.output_size, config.encoder.output_size
        self.input_embedding = nn.Embedding(config.vocab_size, config.input_size)
        self.spk_embed_affine_layer = nn.Linear(config.spk_embed_dim, bands)
        self.encoder = BlockConformer(config.encoder)
        self.encoder_proj = nn.Linear(width, bands)
        self.length_regulator = LengthRegulator(bands, config.regulator_layers)
        self.decoder = FlowSolver(config)

    def encode(self, codes: Tensor) -> Tensor:
        """Encode int codes [1, length] as [1, length, encoder width]."""
        encoded: Tensor = self.encoder(self.input_embedding(codes))
        return encoded

    def regulate(self, encoded: Tensor) -> Tensor:
        """Stretch [1, length, encoder width] to [1, frames, bands]."""
        frames = self.config.frames(encoded.shape[1])
        regulated: Tensor = self.length_regulator(self.encoder_proj(encoded), frames)
        return regulated

    def forward(
        self, codes: Tensor, noise: Tensor, prompt_mel: Tensor | None = None, steps: int = 10
    ) -> Tensor:
        """Mel spectrogram of speech codes, continuing a prompt where one is given.

        Args:
            codes: int [1, length], codes of the prompt first.
            noise: [1, bands, frames] for all codes, standard normal.
            prompt_mel: [1, bands, prompt_frames] that the first frames should follow; its frames
                are generated again and are part of the result.
            steps: Euler steps (the published decoder: 10).

        Returns:
            log mel [1, bands, frames].
        """
        regulated = self.regulate(self.encode(codes)).transpose(1, 2)
        # The published decoder has one voice, the zero speaker vector: only the bias remains.
        speaker = self.spk_embed_affine_layer.bias[None, :, None].expand_as(regulated)
        prompt = torch.zeros_like(regulated)
        if prompt_mel is not None:
            prompt[:, :, : prompt_mel.shape[2]] = prompt_mel
        condition = torch.cat((regulated, speaker, prompt), dim=1)
        mel: Tensor = self.decoder(noise.to(regulated), condition, steps)
        return mel
