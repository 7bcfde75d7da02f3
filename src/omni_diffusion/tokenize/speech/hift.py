"""Mel spectrogram to waveform: the HiFT vocoder of the GLM-4-Voice decoder.

HiFT-Net (arXiv 2309.09493) predicts the pitch, builds a source signal of harmonics and noise from
it, and shapes that source by a convolutional network whose last layer is an inverse short-time
Fourier transform. Module names follow the published `hift.pt`; its weight-normed layers
(`weight_g`, `weight_v`) are folded into plain weights on loading.

Everything here is float32: the phases and the Fourier transforms need it, and half precision saves
little on a network this small. Random numbers come only from the generator that the caller passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from omni_diffusion.errors import WeightsError

Dilations = tuple[tuple[int, ...], ...]

WINDOW_FRAMES = 2048
"""Mel frames (23.8 s) that go through the network at once; longer input runs in windows."""
MAX_MAGNITUDE = 1e2
F0_LAYERS = 5


@dataclass(frozen=True, kw_only=True)
class HiFTConfig:
    """Shape of the vocoder; defaults are those of zai-org/glm-4-voice-decoder.

    Attributes:
        in_channels: mel bands.
        base_channels: width before the first upsampling; each upsampling halves it.
        nb_harmonics: overtones above the pitch in the source.
        sampling_rate: of the waveform, in Hz.
        nsf_alpha: amplitude of the harmonics.
        nsf_sigma: standard deviation of the noise where the speech is voiced.
        nsf_voiced_threshold: pitch in Hz above which a frame counts as voiced.
        upsample_rates: factor of each upsampling.
        upsample_kernel_sizes: kernel of each upsampling.
        n_fft: length of the inverse Fourier transform.
        hop_len: hop of the inverse Fourier transform.
        resblock_kernel_sizes: kernels of the parallel residual blocks of every stage.
        resblock_dilation_sizes: their dilations.
        source_resblock_kernel_sizes: kernel of each stage's source block.
        source_resblock_dilation_sizes: their dilations.
        lrelu_slope: slope of the leaky rectifiers in front of the upsamplings.
        audio_limit: the waveform is clipped to plus or minus this.
        f0_channels: width of the pitch predictor.
    """

    in_channels: int = 80
    base_channels: int = 512
    nb_harmonics: int = 8
    sampling_rate: int = 22_050
    nsf_alpha: float = 0.1
    nsf_sigma: float = 0.003
    nsf_voiced_threshold: float = 10.0
    upsample_rates: tuple[int, ...] = (8, 8)
    upsample_kernel_sizes: tuple[int, ...] = (16, 16)
    n_fft: int = 16
    hop_len: int = 4
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: Dilations = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    source_resblock_kernel_sizes: tuple[int, ...] = (7, 11)
    source_resblock_dilation_sizes: Dilations = ((1, 3, 5), (1, 3, 5))
    lrelu_slope: float = 0.1
    audio_limit: float = 0.99
    f0_channels: int = 512

    @property
    def hop_length(self) -> int:
        """Samples a mel frame (256 in the published model)."""
        return math.prod(self.upsample_rates) * self.hop_len

    @property
    def context_frames(self) -> int:
        """Mel frames on either side that can influence a sample, rounded up generously."""
        reach, rate = 3.0, 1
        blocks = [
            *zip(self.resblock_kernel_sizes, self.resblock_dilation_sizes, strict=True),
            *zip(
                self.source_resblock_kernel_sizes, self.source_resblock_dilation_sizes, strict=True
            ),
        ]
        widest = max(kernel // 2 * sum(d + 1 for d in dilations) for kernel, dilations in blocks)
        for factor, kernel in zip(self.upsample_rates, self.upsample_kernel_sizes, strict=True):
            reach += kernel / factor / rate
            rate *= factor
            reach += 2 * widest / rate  # source block and residual block, one after the other
        reach += (3 + self.n_fft / self.hop_len) / rate
        return max(math.ceil(reach) + 1, F0_LAYERS)


def fold_weight_norm(tensors: Mapping[str, Tensor], source: object) -> dict[str, Tensor]:
    """Replace every `weight_g`, `weight_v` pair by the `weight` that it stands for.

    Args:
        tensors: key to tensor, as published.
        source: named in the error.

    Returns:
        A new table; tensors without weight norm are passed on as they are.

    Raises:
        WeightsError: a half of a pair is missing or has a shape that does not fit the other.
    """
    folded: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key.endswith(".weight_g"):
            if f"{key[:-2]}_v" not in tensors:
                raise WeightsError(f"{source}: missing {key[:-2]}_v, which belongs to {key}")
            continue
        if not key.endswith(".weight_v"):
            folded[key] = tensor
            continue
        stem = key.removesuffix("_v")
        scale = tensors.get(f"{stem}_g")
        if scale is None:
            raise WeightsError(f"{source}: missing {stem}_g, which belongs to {key}")
        if scale.shape != (tensor.shape[0], *[1] * (tensor.dim() - 1)):
            raise WeightsError(
                f"{source}: {stem}_g: {list(scale.shape)} does not fit {key} {list(tensor.shape)}"
            )
        direction = tensor.float()
        norm = direction.flatten(1).norm(dim=1).view_as(scale)
        folded[stem] = direction * (scale.float() / norm)
    return folded


class Snake(nn.Module):
    """`x + sin(alpha x)^2 / alpha` with one alpha a channel (arXiv 2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels, steps] to the same shape."""
        alpha = self.alpha[:, None]
        return x + torch.sin(x * alpha).square() / (alpha + 1e-9)


class ResidualBlock(nn.Module):
    """Pairs of dilated and plain convolutions with residual connections."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Conv1d:
            padding = dilation * (kernel - 1) // 2
            return nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=padding)

        self.convs1 = nn.ModuleList(conv(dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(conv(1) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels, steps] to the same shape."""
        pairs = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for first, dilated, second, plain in pairs:
            x = x + plain(second(dilated(first(x))))
        return x


class PitchPredictor(nn.Module):
    """Pitch of every mel frame in Hz, from five convolutions."""

    def __init__(self, config: HiFTConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = config.in_channels
        for _ in range(F0_LAYERS):
            layers += [nn.Conv1d(channels, config.f0_channels, 3, padding=1), nn.ELU()]
            channels = config.f0_channels
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """Map mel [batch, bands, frames] to pitch [batch, frames]."""
        pitch: Tensor = self.classifier(self.condnet(mel).transpose(1, 2)).squeeze(-1)
        return pitch.abs()


class HarmonicSource(nn.Module):
    """Sum of a sine at the pitch, its overtones and noise, with learned weights."""

    def __init__(self, config: HiFTConfig) -> None:
        super().__init__()
        self.config = config
        self.l_linear = nn.Linear(config.nb_harmonics + 1, 1)

    def forward(self, f0: Tensor, generator: torch.Generator) -> Tensor:
        """Build the source signal of one utterance.

        Args:
            f0: pitch in Hz of every mel frame, [1, frames].
            generator: on the CPU; gives the starting phases and the noise, so that a seed means
                the same signal on every device.

        Returns:
            [1, 1, frames * hop_length].
        """
        config = self.config
        pitch = f0[0].repeat_interleave(config.hop_length)
        voiced = (pitch > config.nsf_voiced_threshold).to(pitch)
        noise_scale = voiced * config.nsf_sigma + (1 - voiced) * config.nsf_alpha / 3
        # Whole minutes of cycles leave float32 no digits for the phase.
        cycles = (pitch.double() / config.sampling_rate).cumsum(0)
        phases = (torch.rand(config.nb_harmonics + 1, generator=generator) * 2 - 1) * torch.pi
        phases[0] = 0
        # One harmonic at a time: all nine at once would be the largest tensor of the decoder.
        mixed = self.l_linear.bias.expand_as(pitch)
        for harmonic, phase in enumerate(phases.tolist(), start=1):
            angle = (cycles * harmonic % 1).to(pitch) * (2 * torch.pi) + phase
            noise = torch.randn(len(pitch), generator=generator).to(pitch)
            wave = config.nsf_alpha * torch.sin(angle) * voiced + noise_scale * noise
            mixed = mixed + self.l_linear.weight[0, harmonic - 1] * wave
        return torch.tanh(mixed)[None, None]


class HiFT(nn.Module):
    """The whole vocoder, keys as in `hift.pt` after `fold_weight_norm`."""

    def __init__(self, config: HiFTConfig) -> None:
        super().__init__()
        self.config = config
        self.f0_predictor = PitchPredictor(config)
        self.m_source = HarmonicSource(config)
        self.conv_pre = nn.Conv1d(config.in_channels, config.base_channels, 7, padding=3)
        self.ups, self.source_downs = nn.ModuleList(), nn.ModuleList()
        self.source_resblocks, self.resblocks = nn.ModuleList(), nn.ModuleList()
        channels, bins = config.base_channels, config.n_fft + 2
        for stage, (rate, kernel) in enumerate(
            zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True)
        ):
            up = nn.ConvTranspose1d(
                channels, channels // 2, kernel, rate, padding=(kernel - rate) // 2
            )
            channels //= 2
            self.ups.append(up)
            # The source spectrum has the last stage's rate; earlier stages see it thinned out.
            down = math.prod(config.upsample_rates[stage + 1 :])
            self.source_downs.append(
                nn.Conv1d(bins, channels, 1)
                if down == 1
                else nn.Conv1d(bins, channels, 2 * down, down, padding=down // 2)
            )
            self.source_resblocks.append(
                ResidualBlock(
                    channels,
                    config.source_resblock_kernel_sizes[stage],
                    config.source_resblock_dilation_sizes[stage],
                )
            )
            for size, dilations in zip(
                config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True
            ):
                self.resblocks.append(ResidualBlock(channels, size, dilations))
        self.conv_post = nn.Conv1d(channels, bins, 7, padding=3)

    def pitch(self, mel: Tensor) -> Tensor:
        """Pitch in Hz [1, frames] of a log mel [1, bands, frames]."""
        return self._in_windows(mel, lambda begin, end: self.f0_predictor(mel[:, :, begin:end]), 1)

    def source(self, pitch: Tensor, generator: torch.Generator) -> Tensor:
        """Source signal [1, 1, samples] for a pitch [1, frames]; see `HarmonicSource`."""
        signal: Tensor = self.m_source(pitch, generator)
        return signal

    def forward(self, mel: Tensor, source: Tensor) -> Tensor:
        """Waveform of a mel spectrogram.

        Args:
            mel: log mel, float32 [1, bands, frames], at least one frame.
            source: [1, 1, frames * hop_length], as `source` makes it.

        Returns:
            float32 [1, frames * hop_length] within plus or minus `audio_limit`.
        """
        hop = self.config.hop_length
        return self._in_windows(
            mel,
            lambda begin, end: self._synthesise(
                mel[:, :, begin:end], source[:, :, begin * hop : end * hop]
            ),
            hop,
        )

    def _in_windows(
        self, mel: Tensor, function: Callable[[int, int], Tensor], per_frame: int
    ) -> Tensor:
        """Join the outputs of `function(begin, end)` over windows of frames.

        Every window is widened by the frames that can reach into it and the surplus is cut off,
        so the result is that of one call over all frames, in memory that does not grow with them.
        """
        frames, context = mel.shape[2], self.config.context_frames
        parts = []
        for begin in range(0, frames, WINDOW_FRAMES):
            end = min(begin + WINDOW_FRAMES, frames)
            left, right = max(begin - context, 0), min(end + context, frames)
            part = function(left, right)
            parts.append(part[:, (begin - left) * per_frame : (end - left) * per_frame])
        return torch.cat(parts, dim=1)

    def _synthesise(self, mel: Tensor, source: Tensor) -> Tensor:
        """Shape a source signal by a mel spectrogram: [1, frames * hop_length]."""
        config = self.config
        window = torch.hann_window(config.n_fft, device=mel.device)
        spectrum = torch.stft(
            source[:, 0], config.n_fft, config.hop_len, window=window, return_complex=True
        )
        excitation = torch.cat((spectrum.real, spectrum.imag), dim=1)
        x, kernels = self.conv_pre(mel), len(config.resblock_kernel_sizes)
        for stage, up in enumerate(self.ups):
            x = up(functional.leaky_relu(x, config.lrelu_slope))
            if stage == len(self.ups) - 1:
                # A Fourier transform of n hops has n + 1 columns.
                x = functional.pad(x, (1, 0), mode="reflect")
            x = x + self.source_resblocks[stage](self.source_downs[stage](excitation))
            blocks = self.resblocks[stage * kernels : (stage + 1) * kernels]
            x = sum(block(x) for block in blocks) / kernels
        # Upstream leaves this rectifier at torch's own slope of 0.01.
        log_magnitude, angle = self.conv_post(functional.leaky_relu(x)).chunk(2, dim=1)
        magnitude = log_magnitude.exp().clamp(max=MAX_MAGNITUDE)
        waveform = torch.istft(
            torch.polar(magnitude, torch.sin(angle)),
            config.n_fft,
            config.hop_len,
            window=window,
        )
        return waveform.clamp(-config.audio_limit, config.audio_limit)
