"""Sizes of the MAGVIT-v2 networks; the defaults are those of `showlab/magvitv2`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omni_diffusion.errors import WeightsError

NORM_GROUPS = 32


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Sizes of an encoder or a decoder; level 0 is the one at full resolution.

    Attributes:
        ch: channels that the multipliers below are multiples of.
        ch_mult: channels of each level, in units of `ch`.
        num_res_blocks: residual blocks of each level.
        z_channels: channels of the latent, one bit each.
    """

    ch: int = 128
    ch_mult: tuple[int, ...]
    num_res_blocks: tuple[int, ...]
    z_channels: int = 13

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.ch * factor for factor in self.ch_mult)

    def faults(self) -> list[str]:
        """What makes these sizes impossible, in words."""
        found = []
        if len(self.ch_mult) != len(self.num_res_blocks) or not self.ch_mult:
            found.append("ch_mult and num_res_blocks must name the same levels")
        if any(width < 1 or width % NORM_GROUPS for width in (self.ch, *self.widths)):
            found.append(f"every width must be a multiple of {NORM_GROUPS}")
        if any(count < 1 for count in self.num_res_blocks):
            found.append("every level needs a residual block")
        if not 1 <= self.z_channels <= 16:
            found.append("z_channels must be 1 to 16")
        return found


@dataclass(frozen=True, kw_only=True)
class MagvitConfig:
    """Sizes of the whole tokenizer.

    Raises:
        WeightsError: the sizes contradict each other.
    """

    encoder: StackConfig = field(
        default_factory=lambda: StackConfig(ch_mult=(1, 2, 2, 4, 4), num_res_blocks=(4, 3, 4, 3, 4))
    )
    decoder: StackConfig = field(
        default_factory=lambda: StackConfig(ch_mult=(1, 1, 2, 2, 4), num_res_blocks=(4, 4, 3, 4, 3))
    )

    def __post_init__(self) -> None:
        faults = [f"encoder: {text}" for text in self.encoder.faults()]
        faults += [f"decoder: {text}" for text in self.decoder.faults()]
        if len(self.encoder.ch_mult) != len(self.decoder.ch_mult):
            faults.append("encoder and decoder must have the same number of levels")
        if self.encoder.z_channels != self.decoder.z_channels:
            faults.append("encoder and decoder must have the same z_channels")
        if faults:
            raise WeightsError("image tokenizer config: " + "; ".join(faults))

    @property
    def codebook_dim(self) -> int:
        """Bits of a code."""
        return self.encoder.z_channels

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return 1 << self.codebook_dim

    @property
    def downsample_factor(self) -> int:
        """Pixels along a side that one code stands for."""
        return 1 << (len(self.encoder.ch_mult) - 1)

    def to_json(self) -> dict[str, Any]:
        """The form `from_json` reads."""
        return {name: _section_to_json(getattr(self, name)) for name in ("encoder", "decoder")}

    @classmethod
    def from_json(cls, path: Path) -> MagvitConfig:
        """Read a `config.json`.

        The published class takes no arguments, so its file need not hold any sizes: sections
        `encoder` and `decoder` are read where present, anything else at the top is ignored.

        Raises:
            WeightsError: the file is not JSON, or a section has unknown fields or wrong types.
        """
        try:
            data = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise WeightsError(f"{path}: cannot be read as JSON: {error}") from error
        if not isinstance(data, dict):
            raise WeightsError(f"{path}: not a JSON object")
        sections = {
            name: _section_from_json(data[name], f"{path}: {name}")
            for name in ("encoder", "decoder")
            if name in data
        }
        return cls(**sections)


def _section_to_json(section: StackConfig) -> dict[str, Any]:
    values = {item.name: getattr(section, item.name) for item in fields(section)}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def _section_from_json(data: object, where: str) -> StackConfig:
    lists, numbers = {"ch_mult", "num_res_blocks"}, {"ch", "z_channels"}
    if not isinstance(data, dict) or not lists <= set(data) <= lists | numbers:
        raise WeightsError(f"{where}: expected fields {sorted(lists)} and, if wanted, {numbers}")
    for key, value in data.items():
        items = value if key in lists else [value]
        if not isinstance(items, list) or not all(type(item) is int for item in items):
            raise WeightsError(f"{where}.{key}: {value!r} is not made of integers")
    values: dict[str, Any] = {k: tuple(v) if k in lists else v for k, v in data.items()}
    return StackConfig(**values)
