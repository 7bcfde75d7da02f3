"""How the demo image tokenizer is trained: a small core first, then the whole network around it.

The published layout quantises the sign of the encoder's output, whatever its size. In training the
output goes through tanh on its way to the quantiser. That changes no sign, so no code, but keeps
the output small enough for the entropy loss to have a gradient.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from demo_tokenizers.image_corpus import SIDE, Drawing, is_held_out, shapes, to_batch, varied
from omni_diffusion.tokenize.image.config import MagvitConfig, StackConfig
from omni_diffusion.tokenize.image.magvit2 import MagvitV2

SIZES = MagvitConfig(
    encoder=StackConfig(ch=32, ch_mult=(1, 1, 1, 2, 4), num_res_blocks=(1, 1, 2, 1, 1)),
    decoder=StackConfig(ch=32, ch_mult=(1, 1, 1, 2, 5), num_res_blocks=(1, 1, 2, 1, 2)),
)
OUTER_LEVELS = 2
CORE_SIDE = SIDE >> OUTER_LEVELS
_OUTER_RESIDUAL = re.compile(r"(encoder\.down|decoder\.up)\.[01]\.block\.\d+\.conv2\.")

_TRAIN_SHAPES = 1000
# Below about this squared error (29 dB) a picture is good enough not to be worth more effort.
_ERROR_OFFSET = 0.005
# How far from 0 a latent must be for its bit to count as certain: sigmoid(4) is 0.98.
_SHARPNESS = 4.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how hard to train.

    Attributes:
        warm_steps: steps of the core with noise instead of quantisation.
        core_steps: steps of the core with quantisation.
        whole_steps: steps of everything.
        core_batch: pictures of 64x64 a step.
        whole_batch: pictures of 256x256 a step.
        core_rate: highest learning rate of the core; each part falls to nearly zero.
        whole_rate: the same for everything.
        shapes_share: how much of a batch is easy-vqa; the rest is OpenMoji.
        spread_weight: of the reward for using all codes equally.
        certainty_weight: of the penalty for latents near 0.
    """

    warm_steps: int = 100
    core_steps: int = 1900
    whole_steps: int = 450
    core_batch: int = 4
    whole_batch: int = 2
    core_rate: float = 1.5e-3
    whole_rate: float = 5e-4
    shapes_share: float = 0.12
    spread_weight: float = 1.0
    certainty_weight: float = 0.5


class Trainer:
    """The core and the whole network, and the pictures they learn from."""

    def __init__(self, drawings: Sequence[Drawing], plan: Plan, seed: int) -> None:
        """Draw the initial weights."""
        torch.manual_seed(seed)
        self.plan, self.rng = plan, random.Random(seed)
        self.emoji = [item for item in drawings if not is_held_out(item.name)]
        self.shapes = shapes("train", _TRAIN_SHAPES)
        self.core = _channels_last(MagvitV2(_core_sizes()))
        self.whole = _channels_last(MagvitV2(SIZES))
        for ends in (self.core.encoder.conv_in, self.core.decoder.conv_out):
            _make_pointwise(ends)

    def batch(self, n: int, side: int) -> Tensor:
        """Pictures `[n, 3, side, side]`."""
        pictures = []
        for _ in range(n):
            pool = self.shapes if self.rng.random() < self.plan.shapes_share else self.emoji
            pictures.append(varied(self.rng.choice(pool), side, self.rng))
        return to_batch(pictures)

    def train_core(self) -> None:
        """Train the core, first without quantisation."""
        plan, model = self.plan, self.core
        n_steps = plan.warm_steps + plan.core_steps
        loop = _Loop("core", model.parameters(), plan.core_rate, n_steps)
        for step in range(n_steps):
            pixels = self.batch(plan.core_batch, CORE_SIDE)
            # The low-resolution levels take half the time in bfloat16.
            with torch.autocast("cpu", torch.bfloat16):
                latents = model.encoder(pixels)
            bounded = torch.tanh(latents.float())
            if step < plan.warm_steps:
                coded = bounded + 0.4 * torch.randn_like(bounded)
            else:
                coded = straight_through(bounded)
            with torch.autocast("cpu", torch.bfloat16):
                made = model.decoder(coded)
            loop.step(picture_loss(made.float(), pixels), self.code_loss(bounded))

    def train_whole(self) -> None:
        """Train everything; at first it does at full resolution what the core does."""
        plan, model = self.plan, self.whole
        grow(self.core, model)
        loop = _Loop("whole", model.parameters(), plan.whole_rate, plan.whole_steps)
        for _ in range(plan.whole_steps):
            pixels = self.batch(plan.whole_batch, SIDE)
            bounded = torch.tanh(model.encoder(pixels))
            made = model.decoder(straight_through(bounded))
            loop.step(picture_loss(made, pixels), self.code_loss(bounded))

    def code_loss(self, bounded: Tensor) -> Tensor:
        """Low when bits are certain and, over the batch, all codes equally frequent.

        Both entropies are in nats a bit. The second is that of whole codes, not of single bits:
        bits can be balanced one by one and still all say the same.

        Args:
            bounded: latents `[B, C, h, w]` between -1 and 1.
        """
        logits = _SHARPNESS * bounded.movedim(1, -1).flatten(0, -2)
        n_bits = logits.shape[1]
        uncertainty = (functional.softplus(logits) - logits * logits.sigmoid()).mean()
        ones = (self.core.quantize.embedding > 0).to(logits.dtype)
        log_share = functional.logsigmoid(logits) @ ones.T
        log_share = log_share + functional.logsigmoid(-logits) @ (1 - ones).T
        spread = torch.special.entr(log_share.exp().mean(0)).sum() / n_bits
        loss: Tensor = self.plan.certainty_weight * uncertainty - self.plan.spread_weight * spread
        return loss


class _Loop:
    """Optimiser, learning rate and the printed progress of one part of the training."""

    def __init__(
        self, name: str, weights: Iterable[nn.Parameter], rate: float, n_steps: int
    ) -> None:
        self.name, self.weights, self.count = name, list(weights), 0
        self.optimizer = torch.optim.AdamW(self.weights, lr=rate, betas=(0.9, 0.98))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, n_steps, pct_start=0.08, final_div_factor=20.0
        )
        self.recent: list[tuple[float, float]] = []

    def step(self, loss: Tensor, extra: Tensor) -> None:
        self.optimizer.zero_grad()
        (loss + extra).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.count += 1
        self.recent.append((float(loss.detach()), float(extra.detach())))
        if self.count % 50 == 0:
            main, other = (sum(column) / len(column) for column in zip(*self.recent, strict=True))
            self.recent = []
            # The loss is a mean logarithm: in decibels it is nearly the mean PSNR.
            decibel = 10 * (math.log10(4) - main / math.log(10))
            print(
                f"{time.process_time():7.0f} s  {self.name} {self.count}: "
                f"about {decibel:.2f} dB, loss of the codes {other:.4f}",
                flush=True,
            )


def straight_through(bounded: Tensor) -> Tensor:
    """Signs of the latents, -1 for zero; gradients pass as if nothing had been done."""
    signs = torch.where(bounded > 0, 1.0, -1.0)
    return bounded + (signs - bounded).detach()


def picture_loss(made: Tensor, pixels: Tensor) -> Tensor:
    """Mean over the pictures of the logarithm of the squared error: what mean PSNR measures."""
    error = (made - pixels).square().mean(dim=(1, 2, 3))
    return (error + _ERROR_OFFSET).log().mean()


@torch.no_grad()
def grow(core: MagvitV2, whole: MagvitV2) -> None:
    """Put outer levels around a core so that at first they only shrink and enlarge the picture.

    Shrinking in them is averaging over 2x2, which commutes with the core's pointwise `conv_in`:
    the codes are exactly the core's for the shrunken picture.
    """
    ends = ("encoder.conv_in", "decoder.norm_out", "decoder.conv_out")
    moved = {}
    for key, tensor in core.state_dict().items():
        half, part, *rest = key.split(".")
        if not key.startswith(ends) and part in ("down", "up"):
            rest[0] = str(int(rest[0]) + OUTER_LEVELS)
        moved[".".join((half, part, *rest))] = tensor
    unexpected = whole.load_state_dict(moved, strict=False).unexpected_keys
    assert not unexpected
    state = whole.state_dict()  # shares memory with the weights
    for key, tensor in state.items():
        if _OUTER_RESIDUAL.match(key):
            tensor.zero_()
    for level in range(OUTER_LEVELS):
        _set_filter(state, f"encoder.down.{level}.downsample.conv", torch.tensor([0.5, 0.5, 0.0]))
        _set_filter(state, f"decoder.up.{level + 1}.upsample.conv", torch.tensor([0.25, 0.5, 0.25]))


def _set_filter(state: Mapping[str, Tensor], name: str, row: Tensor) -> None:
    """Let a convolution filter each channel on its own with one separable kernel."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    channels = torch.arange(len(weight))
    weight.zero_()[channels, channels] = row[:, None] * row
    bias.zero_()


def _make_pointwise(conv: nn.Conv2d) -> None:
    """Leave only the middle of a 3x3 kernel, now and in training."""
    middle = torch.zeros(3, 3)
    middle[1, 1] = 1.0
    with torch.no_grad():
        conv.weight.mul_(3 * middle)  # nine weights fewer, so each three times as large
    conv.weight.register_hook(lambda gradient: gradient * middle)  # type: ignore[no-untyped-call]


def _core_sizes() -> MagvitConfig:
    """The network without its outer levels; it works on pictures of a quarter the side."""
    encoder, decoder = (
        replace(
            stack,
            ch_mult=stack.ch_mult[OUTER_LEVELS:],
            num_res_blocks=stack.num_res_blocks[OUTER_LEVELS:],
        )
        for stack in (SIZES.encoder, SIZES.decoder)
    )
    return MagvitConfig(encoder=encoder, decoder=decoder)


def _channels_last(model: MagvitV2) -> MagvitV2:
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
