"""How good the stored demo image tokenizer is on pictures that it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from demo_tokenizers.image_corpus import (
    HELD_OUT_SHAPES,
    SIDE,
    Drawing,
    is_held_out,
    on_white,
    shapes,
    to_batch,
)
from omni_diffusion.tokenize.image.config import MagvitConfig
from omni_diffusion.tokenize.image.magvit2 import MagvitV2
from omni_diffusion.tokenize.image.preprocess import PRESETS, to_pictures, to_pixels
from omni_diffusion.tokenize.image.tokenizer import ImageTokenizer
from omni_diffusion.tokenize.weights import load_into, load_tensors

THUMBNAIL_SIDE = 16

_SHEET_EMOJI, _SHEET_SHAPES, _SHEET_COLUMNS, _SHEET_SIDE = 20, 4, 8, 128


def load_stored(folder: Path) -> ImageTokenizer:
    """The tokenizer of `image.safetensors` and `image.json`."""
    model, weights = MagvitV2(MagvitConfig.from_json(folder / "image.json")), "image.safetensors"
    load_into(model, load_tensors(folder / weights), weights)
    return ImageTokenizer(model, name="magvit2-demo", preprocessing=PRESETS["default"])


def evaluate(tokenizer: ImageTokenizer, drawings: Sequence[Drawing]) -> dict[str, float]:
    """What a tokenizer does with held-out pictures on white, 256x256.

    Args:
        tokenizer: with one code for 16x16 pixels.
        drawings: all of OpenMoji; the held-out tenth is used.

    Returns:
        Mean PSNR in dB on OpenMoji and on easy-vqa, that of a 16x16 thumbnail of the same
        pictures, the share of the codebook that the OpenMoji pictures use, and the entropy of
        their codes in bits.
    """
    parts = {
        "openmoji": [item for item in drawings if is_held_out(item.name)],
        "easy_vqa": shapes("test", HELD_OUT_SHAPES),
    }
    measured: dict[str, float] = {}
    for name, items in parts.items():
        originals = [on_white(item) for item in items]
        made, codes = round_trip(tokenizer, originals)
        if name == "openmoji":
            share = codes.flatten().bincount(minlength=tokenizer.codebook_size) / codes.numel()
            measured["openmoji_pictures"] = len(items)
            measured["codes_used_share"] = float((share > 0).double().mean())
            measured["codes_entropy_bits"] = float(torch.special.entr(share).sum()) / math.log(2)
        thumbnails = [thumbnail(picture) for picture in originals]
        measured[f"{name}_psnr_db"] = _mean_psnr(made, originals)
        measured[f"{name}_thumbnail_psnr_db"] = _mean_psnr(thumbnails, originals)
    return {key: round(value, 3) for key, value in measured.items()}


def round_trip(
    tokenizer: ImageTokenizer, pictures: Sequence[Image.Image]
) -> tuple[list[Image.Image], Tensor]:
    """Encode and decode square pictures; returns what comes out and codes `[n, 256]`."""
    pixels = torch.stack([to_pixels(picture, SIDE) for picture in pictures])
    codes = tokenizer.encode(pixels)
    side = SIDE // tokenizer.downsample_factor
    made = [to_pictures(tokenizer.decode(row[None], (side, side)))[0] for row in codes]
    return made, codes


def thumbnail(picture: Image.Image) -> Image.Image:
    """The picture shrunk to 16x16 and blown up again, both bicubic: three bytes a code."""
    method = Image.Resampling.BICUBIC
    return picture.resize((THUMBNAIL_SIDE,) * 2, method).resize(picture.size, method)


def psnr(made: Image.Image, original: Image.Image) -> float:
    """Peak signal-to-noise ratio of two 8-bit RGB pictures, in dB."""
    a, b = (to_batch([picture]) for picture in (made, original))
    return 10 * math.log10(4 / max(float((a - b).square().mean()), 1e-9))


def contact_sheet(tokenizer: ImageTokenizer, drawings: Sequence[Drawing], path: Path) -> None:
    """Draw held-out originals, each over what the tokenizer makes of it."""
    held_out = [item for item in drawings if is_held_out(item.name)]
    chosen = held_out[:: len(held_out) // _SHEET_EMOJI][:_SHEET_EMOJI]
    originals = [on_white(item) for item in [*chosen, *shapes("test", _SHEET_SHAPES)]]
    made, _ = round_trip(tokenizer, originals)
    rows = math.ceil(len(originals) / _SHEET_COLUMNS)
    sheet = Image.new("RGB", (_SHEET_COLUMNS * _SHEET_SIDE, rows * 2 * _SHEET_SIDE), "white")
    for index, pair in enumerate(zip(originals, made, strict=True)):
        row, column = divmod(index, _SHEET_COLUMNS)
        for below, picture in enumerate(pair):
            small = picture.resize((_SHEET_SIDE,) * 2, Image.Resampling.BOX)
            sheet.paste(small, (column * _SHEET_SIDE, (2 * row + below) * _SHEET_SIDE))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def _mean_psnr(made: Sequence[Image.Image], originals: Sequence[Image.Image]) -> float:
    values = [psnr(*pair) for pair in zip(made, originals, strict=True)]
    return sum(values) / len(values)
