"""Whether a picture can be looked at: asked before anything is spoken about it."""

from __future__ import annotations

import io
import warnings

from PIL import Image, UnidentifiedImageError

from omni_diffusion.sdvi.rules import Dropped

PICTURE = "R0.picture"
"""Rule id of pictures that are damaged, too large or of a format that media corpora do not hold."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 1 << 27
"""By the header, before anything is decoded."""


def picture_fault(data: bytes) -> Dropped | None:
    """Why a picture's file is of no use, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is judged here
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    return Dropped(rule=PICTURE, detail=f"{width} x {height} pixels")
                picture.load()
    except UnidentifiedImageError:  # whose words hold an address in memory
        return Dropped(rule=PICTURE, detail="cannot be decoded: is not a picture")
    except (Image.DecompressionBombError, OSError, ValueError) as error:
        return Dropped(rule=PICTURE, detail=f"cannot be decoded: {error}")
    except (SyntaxError, EOFError, IndexError, OverflowError) as error:  # Pillow's, of odd files
        return Dropped(rule=PICTURE, detail=f"cannot be decoded: {type(error).__name__} {error}")
    return None
