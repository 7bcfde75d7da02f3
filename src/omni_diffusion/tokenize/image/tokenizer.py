"""Pictures to MAGVIT-v2 codes and back: 8,192 codes, one for every 16x16 pixels, row by row.

On the CPU every picture runs on its own, since batching gains nothing there; its codes are then
the same in any batch, to the last bit. Several processes of one thread each make the most of a
machine. On a GPU, TensorFloat-32 is kept out of the convolutions, because it moves values across
the sign that a bit stands for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from omni_diffusion.errors import CodeRangeError, MediaError, WeightsError
from omni_diffusion.tokenize.image.config import MagvitConfig
from omni_diffusion.tokenize.image.magvit2 import MagvitV2
from omni_diffusion.tokenize.image.preprocess import PRESETS, ImagePreprocessing
from omni_diffusion.tokenize.weights import (
    DEMO,
    load_into,
    load_tensors,
    resolve_weights,
    tensors_digest,
)

_WEIGHT_FILES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "*.safetensors.index.json",
    "*.safetensors",
    "pytorch_model.bin",
    "*.bin.index.json",
    "*.bin",
    "*.pt",
)
_INEXACT = (torch.bfloat16, torch.float16)


class ImageTokenizer:
    """The MAGVIT-v2 tokenizer; build it with `from_pretrained`.

    Attributes:
        codebook_size: codes are 0 up to this (exclusive).
        downsample_factor: pixels along a side that one code stands for.
        preprocessing: the settings that pictures must be prepared with.
        weights_fingerprint: equal for two tokenizers exactly when their weights are: each can
            decode the other's codes. `magvit2-` (`magvit2-demo-` for the demo weights) and 8 hex
            digits.
        fingerprint: the same and 8 more digits, for preprocessing and precision: equal exactly
            when both make the same codes of the same file.
    """

    def __init__(self, model: MagvitV2, *, name: str, preprocessing: ImagePreprocessing) -> None:
        """Wrap a model that is loaded and on its device; it is frozen here."""
        self.preprocessing = preprocessing
        self.codebook_size = model.config.codebook_size
        self.downsample_factor = model.config.downsample_factor
        weight = model.encoder.conv_in.weight
        self._device, self._dtype = weight.device, weight.dtype
        settings = json.dumps([asdict(preprocessing), str(self._dtype)], sort_keys=True)
        self.weights_fingerprint = f"{name}-{tensors_digest(model.state_dict())[:8]}"
        digest = xxhash.xxh3_64_hexdigest(settings.encode())
        self.fingerprint = f"{self.weights_fingerprint}{digest[:8]}"
        self._model = model.freeze()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        preprocessing: ImagePreprocessing = PRESETS["default"],
        allow_inexact: bool = False,
    ) -> ImageTokenizer:
        """Load the published tokenizer, or the demo one that ships in the package.

        Args:
            name_or_path: hub name (`showlab/magvitv2`), a folder with weights and, for other
                sizes than the published, a `config.json`, one weights file (or the `.index.json`
                of several), or `demo`.
            device: where the networks run.
            dtype: float32, unless `allow_inexact`.
            preprocessing: how the pictures are prepared; part of the fingerprint.
            allow_inexact: permit bfloat16 (about 5 % of the codes differ from the published)
                and float16.

        Raises:
            WeightsError: weights absent or of another layout, or a dtype that is not allowed.
        """
        if dtype != torch.float32 and not (allow_inexact and dtype in _INEXACT):
            raise WeightsError(
                f"{name_or_path}: {dtype} gives other codes than the published float32; "
                "bfloat16 and float16 can be had with allow_inexact=True"
            )
        if str(name_or_path) == DEMO:
            model, name = _load_demo(), "magvit2-demo"
        else:
            model, name = _load_published(resolve_weights(name_or_path)), "magvit2"
        model = model.to(device=device, dtype=dtype)
        return cls(model, name=name, preprocessing=preprocessing)

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """Codes of pictures of one size.

        Args:
            pixels: floating point `[B, 3, H, W]`, -1 (black) to 1 (white); sides are multiples of
                `downsample_factor`.

        Returns:
            int32 `[B, h * w]` on the CPU, row by row.

        Raises:
            MediaError: another shape or dtype, or values that are not finite or out of range.
        """
        self._check_pixels(pixels)
        with self._exact():
            parts = [
                self._model.quantize.codes(self._model.encoder(part.to(self._device, self._dtype)))
                for part in self._portions(pixels)
            ]
        return torch.cat(parts).flatten(1).to("cpu", torch.int32)

    @torch.inference_mode()
    def decode(self, codes: Tensor, grid: tuple[int, int]) -> Tensor:
        """Pixels of codes.

        Args:
            codes: integers `[B, h * w]`.
            grid: `(h, w)`, rows and columns of codes.

        Returns:
            `[B, 3, 16h, 16w]` in the tokenizer's dtype on its device, about -1 to 1, not clamped;
            `preprocess.to_pictures` makes pictures of them.

        Raises:
            CodeRangeError: codes are not integers, out of range or do not fill the grid.
        """
        height, width = grid
        if codes.dim() != 2 or min(*grid, len(codes)) < 1 or codes.shape[1] != height * width:
            raise CodeRangeError(
                f"image codes of shape {list(codes.shape)} do not fill a grid of {height}x{width}"
            )
        with self._exact():
            z = self._model.quantize.lookup(codes.to(self._device).reshape(-1, *grid))
            return torch.cat([self._model.decoder(part) for part in self._portions(z)])

    def _portions(self, batch: Tensor) -> Iterable[Tensor]:
        size = 1 if self._device.type == "cpu" else len(batch)
        return (batch[start : start + size] for start in range(0, len(batch), size))

    def _exact(self) -> AbstractContextManager[Any]:
        if self._device.type != "cuda":
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)

    def _check_pixels(self, pixels: Tensor) -> None:
        side = self.downsample_factor
        shape = list(pixels.shape)
        if pixels.dim() != 4 or shape[1] != 3 or 0 in shape or shape[2] % side or shape[3] % side:
            reason = f"shape {shape} is not [B, 3, H, W] with H and W multiples of {side}"
        elif not pixels.is_floating_point():
            reason = f"{pixels.dtype} is not floating point"
        elif not (pixels.abs() <= 1).all():
            reason = "values are not finite or lie outside -1 to 1"
        else:
            return
        raise MediaError("pixels", reason)


def _load_published(path: Path) -> MagvitV2:
    """The model in a folder or file; published sizes unless a `config.json` lies there."""
    weights = _find_weights(path) if path.is_dir() else path
    config = weights.parent / "config.json"
    return _load(weights, MagvitConfig.from_json(config) if config.exists() else MagvitConfig())


def _find_weights(folder: Path) -> Path:
    for pattern in _WEIGHT_FILES:
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ", ".join(item.name for item in found[:4])
            raise WeightsError(
                f"{folder}: several files of weights ({names}) and no index that joins them; "
                "name one of them"
            )
        if found:
            return found[0]
    raise WeightsError(f"{folder}: none of {', '.join(_WEIGHT_FILES)} there")


def _load_demo() -> MagvitV2:
    folder = resources.files("omni_diffusion.tokenize").joinpath("demo")
    entries = folder.joinpath("image.safetensors"), folder.joinpath("image.json")
    for entry in entries:
        if not entry.is_file():
            raise WeightsError(
                f"{DEMO}: this installation lacks the demo tokenizer's {entry.name}; "
                "install the package again, or name other weights"
            )
    with resources.as_file(entries[0]) as weights, resources.as_file(entries[1]) as config:
        return _load(weights, MagvitConfig.from_json(config))


def _load(weights: Path, config: MagvitConfig) -> MagvitV2:
    model = MagvitV2(config)
    load_into(model, load_tensors(weights), weights)
    model.quantize.check_tables(weights)
    return model
