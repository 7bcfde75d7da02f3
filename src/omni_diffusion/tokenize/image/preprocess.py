"""Picture files to the pixels that the image tokenizer takes, and its pixels back to pictures.

What happens to which picture:

* grey, palette, CMYK and the like become RGB; 16-bit grey is scaled to 8 bits (a transparent level
  of it is not looked at); 32-bit integer and floating-point pictures are refused, since nothing
  says which value is white;
* a picture smaller than the resolution is enlarged, down to 1x1, which becomes one flat colour;
* too many pixels (by the header, before anything is decoded, or after resizing), too long a shape,
  a damaged file, or several frames where the settings do not say to take the first: `MediaError`.
"""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from omni_diffusion.errors import MediaError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""File formats that are read; others that Pillow knows run foreign programs or are exotic."""

_NAMES = ", ".join(FORMATS)

SIDE_MULTIPLE = 16

_GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
_NO_WHITE = ("I", "F")


@dataclass(frozen=True, kw_only=True)
class ImagePreprocessing:
    """How a picture becomes pixels. The defaults show a picture as a viewer would.

    Attributes:
        exif_orientation: turn the picture as its EXIF tag says.
        alpha: `composite` lays a transparent picture over `background`; `drop` shows whatever
            colour the transparent pixels have.
        background: RGB, 0 to 255.
        crop: `centre` cuts a square of the resolution out of the middle; `none` keeps the whole
            picture, its longer side rounded to a multiple of 16 pixels.
        frames: `single` refuses animations and files of several pages; `first` takes the first.
        max_pixels: limit on the pixels of the file, and of the picture after resizing.
        max_aspect_ratio: limit on the longer side over the shorter one.

    Raises:
        MediaError: a setting is out of its range.
    """

    exif_orientation: bool = True
    alpha: Literal["composite", "drop"] = "composite"
    background: tuple[int, int, int] = (255, 255, 255)
    crop: Literal["centre", "none"] = "centre"
    frames: Literal["single", "first"] = "single"
    max_pixels: int = 80_000_000
    max_aspect_ratio: float = 10.0

    def __post_init__(self) -> None:
        checks = {
            "alpha must be 'composite' or 'drop'": self.alpha in ("composite", "drop"),
            "crop must be 'centre' or 'none'": self.crop in ("centre", "none"),
            "frames must be 'single' or 'first'": self.frames in ("single", "first"),
            "background must be three levels of 0 to 255": len(self.background) == 3
            and all(0 <= level <= 255 for level in self.background),
            "max_pixels must be positive": self.max_pixels > 0,
            "max_aspect_ratio must be at least 1": self.max_aspect_ratio >= 1,
        }
        faults = [text for text, holds in checks.items() if not holds]
        if faults:
            raise MediaError("image preprocessing", "; ".join(faults))


PUBLISHED = ImagePreprocessing(
    exif_orientation=False, alpha="drop", frames="first", max_aspect_ratio=math.inf
)
"""What the published code does; it has no limits, here that on the pixels remains."""

PRESETS = {"default": ImagePreprocessing(), "published": PUBLISHED}


def load_picture(
    source: bytes | str | os.PathLike[str],
    settings: ImagePreprocessing = PRESETS["default"],
    name: str | None = None,
) -> Image.Image:
    """Decode one picture.

    Args:
        source: the bytes of a file, or its path.
        settings: all but `crop` matter here.
        name: what errors call the picture; the path where there is one.

    Returns:
        RGB, 8 bits a channel.

    Raises:
        MediaError: the picture cannot be read or the settings do not admit it.
    """
    if isinstance(source, bytes):
        label, stream = name or f"picture of {len(source)} bytes", io.BytesIO(source)
    else:
        label = name or str(source)
        try:
            stream = io.BytesIO(Path(source).read_bytes())
        except OSError as error:
            raise MediaError(label, f"cannot be read: {error.strerror or error}") from error
    try:
        with Image.open(stream, formats=FORMATS) as picture:
            _check_header(picture, label, settings)
            picture.load()
            return _to_rgb(picture, settings)
    except MediaError:
        raise
    except UnidentifiedImageError as error:  # whose own words hold an address in memory
        raise MediaError(label, f"not a picture of a format that is read ({_NAMES})") from error
    # Decoders fed with damaged bytes raise almost anything, from SyntaxError to struct.error.
    except Exception as error:
        raise MediaError(label, f"cannot be decoded: {type(error).__name__}: {error}") from error


def to_pixels(
    picture: Image.Image,
    resolution: int,
    settings: ImagePreprocessing = PRESETS["default"],
    name: str = "picture",
) -> Tensor:
    """Resize (bicubic, antialiased), crop and normalise as the published code does.

    Args:
        picture: from `load_picture`.
        resolution: length of the shorter side in pixels, a multiple of 16.
        settings: `crop` and the limits matter here.
        name: what errors call the picture.

    Returns:
        float32 `[3, H, W]`, -1 (black) to 1.

    Raises:
        MediaError: the picture is not RGB, the resolution not a multiple of 16, or the resized
            picture too large.
    """
    if resolution < SIDE_MULTIPLE or resolution % SIDE_MULTIPLE:
        raise MediaError(name, f"resolution {resolution} is not a multiple of {SIDE_MULTIPLE}")
    if picture.mode != "RGB":
        raise MediaError(name, f"a picture of mode {picture.mode}, not RGB")
    width, height = picture.size
    short, long = min(width, height), max(width, height)
    if settings.crop == "centre":
        resized_long = int(resolution * long / short)
    else:
        resized_long = SIDE_MULTIPLE * round(resolution * long / short / SIDE_MULTIPLE)
    _check_pixels(resolution * resized_long, "once resized", name, settings)
    size = (resolution, resized_long) if width <= height else (resized_long, resolution)
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    if settings.crop == "centre":
        left, top = (round((side - resolution) / 2) for side in size)
        picture = picture.crop((left, top, left + resolution, top + resolution))
    levels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
    return levels.float().div_(255).sub_(0.5).div_(0.5)


def to_uint8(pixels: Tensor) -> Tensor:
    """Decoded pixels as 8-bit levels, cut off at black and white and truncated as published.

    Args:
        pixels: `[B, 3, H, W]`, -1 (black) to 1 (white), or a little beyond.

    Returns:
        uint8 `[B, H, W, 3]` on the CPU.

    Raises:
        MediaError: a value is not finite.
    """
    if not torch.isfinite(pixels).all():
        raise MediaError("decoded pixels", "not finite")
    levels = ((pixels.float() + 1) / 2).clamp(0, 1) * 255
    return levels.to(torch.uint8).permute(0, 2, 3, 1).cpu()


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """The same as RGB pictures, one for each row of the batch."""
    return [Image.fromarray(levels.numpy()) for levels in to_uint8(pixels)]


def _check_header(picture: Image.Image, label: str, settings: ImagePreprocessing) -> None:
    """Refuse, before any pixel is decoded, what the settings do not admit."""
    width, height = picture.size
    _check_pixels(width * height, f"({width}x{height})", label, settings)
    ratio = max(width, height) / min(width, height)
    if ratio > settings.max_aspect_ratio:
        raise MediaError(
            label,
            f"{width}x{height} is {ratio:.4g} times as long as wide, "
            f"the limit is {settings.max_aspect_ratio:g}",
        )
    if picture.mode in _NO_WHITE:
        raise MediaError(label, f"pixels of mode {picture.mode} have no defined white")
    # A phone's JPEG may carry a second, auxiliary picture (MPO); the first is the picture.
    frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
    if frames > 1 and settings.frames == "single":
        raise MediaError(label, f"{frames} frames; the settings admit single pictures only")


def _check_pixels(count: int, what: str, label: str, settings: ImagePreprocessing) -> None:
    if count > settings.max_pixels:
        raise MediaError(label, f"{count} pixels {what}, the limit is {settings.max_pixels}")


def _to_rgb(picture: Image.Image, settings: ImagePreprocessing) -> Image.Image:
    """Turn upright, scale to 8 bits and settle transparency."""
    if settings.exif_orientation:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in _GREY_16:
        levels = np.asarray(picture).astype(np.uint32)
        picture = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if settings.alpha == "composite" and picture.has_transparency_data:
        backdrop = Image.new("RGBA", picture.size, (*settings.background, 255))
        picture = Image.alpha_composite(backdrop, picture.convert("RGBA"))
    return picture.convert("RGB")
