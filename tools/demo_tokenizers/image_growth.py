"""The networks of the demo image tokenizer's training: a small core, and the whole around it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from demo_tokenizers.image_corpus import SIDE
from demo_tokenizers.image_norm import use_training_norm
from omni_diffusion.tokenize.image.config import MagvitConfig, StackConfig
from omni_diffusion.tokenize.image.magvit2 import MagvitV2

SIZES = MagvitConfig(
    encoder=StackConfig(ch=32, ch_mult=(1, 1, 1, 2, 4), num_res_blocks=(1, 1, 2, 1, 1)),
    decoder=StackConfig(ch=32, ch_mult=(2, 2, 2, 2, 4), num_res_blocks=(1, 1, 1, 1, 2)),
)
OUTER_LEVELS = 2
CORE_SIDE = SIDE >> OUTER_LEVELS

_OUTER_RESIDUAL = re.compile(r"(encoder\.down|decoder\.up)\.[01]\.block\.\d+\.conv2\.")


def new_core() -> MagvitV2:
    """The network without its outer levels, for pictures of a quarter the side."""
    encoder, decoder = (
        replace(
            stack,
            ch_mult=stack.ch_mult[OUTER_LEVELS:],
            num_res_blocks=stack.num_res_blocks[OUTER_LEVELS:],
        )
        for stack in (SIZES.encoder, SIZES.decoder)
    )
    model = _for_training(MagvitConfig(encoder=encoder, decoder=decoder))
    for ends in (model.encoder.conv_in, model.decoder.conv_out):
        _make_pointwise(ends)
    return model


def new_whole() -> MagvitV2:
    """The network that ships."""
    return _for_training(SIZES)


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


def _for_training(sizes: MagvitConfig) -> MagvitV2:
    model = MagvitV2(sizes)
    use_training_norm(model)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


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
