"""The tokenizer that ships in the package turns pictures into codes and back, right after install.

The pictures under `data/` were kept out of its training: every third held-out drawing of OpenMoji
(openmoji.org, CC-BY-SA-4.0) on white, and shapes of easy-vqa's test part (MIT), side by side on two
sheets that `tools/demo_tokenizers/image_test_pictures.py` draws.
"""

import math
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omni_diffusion import tokenize
from omni_diffusion.tokenize.image.preprocess import load_picture, to_pictures, to_pixels
from omni_diffusion.tokenize.image.tokenizer import ImageTokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE, GRID = 256, (16, 16)
PSNR_FLOOR_DB = 17.6  # 2 dB above what a thumbnail must reach
CODES_USED_FLOOR = 0.25
DATA = Path(__file__).parent / "data"


def pictures_of(sheet: str, side: int) -> list[Image.Image]:
    """The squares of a sheet, row by row, at 256x256."""
    whole = load_picture(DATA / sheet)
    corners = [(x, y) for y in range(0, whole.height, side) for x in range(0, whole.width, side)]
    cut = (whole.crop((x, y, x + side, y + side)) for x, y in corners)
    return [picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for picture in cut]


DRAWINGS = pictures_of("openmoji.webp", 256)
SHAPES = pictures_of("easy-vqa.png", 64)


@pytest.fixture(scope="module")
def demo() -> ImageTokenizer:
    return ImageTokenizer.from_pretrained("demo")


@pytest.fixture(scope="module")
def codes(demo: ImageTokenizer) -> torch.Tensor:
    """Of the drawings."""
    return demo.encode(torch.stack([to_pixels(picture, SIDE) for picture in DRAWINGS]))


@pytest.fixture(scope="module")
def made(demo: ImageTokenizer, codes: torch.Tensor) -> list[Image.Image]:
    """What comes out of the drawings' codes."""
    return to_pictures(demo.decode(codes, GRID))


def psnr(a: Image.Image, b: Image.Image) -> float:
    error = np.mean(np.square(np.asarray(a, np.float64) - np.asarray(b, np.float64)))
    return float(10 * math.log10(255**2 / error))


def mean_psnr(made: list[Image.Image], originals: list[Image.Image]) -> float:
    return float(np.mean([psnr(*pair) for pair in zip(made, originals, strict=True)]))


def thumbnail(picture: Image.Image) -> Image.Image:
    """One pixel, 24 bits, where the tokenizer has one code of 13 bits."""
    small = picture.resize(GRID, Image.Resampling.BICUBIC)
    return small.resize(picture.size, Image.Resampling.BICUBIC)


def test_it_has_the_published_codes_and_says_that_it_is_a_demo(demo: ImageTokenizer) -> None:
    assert (demo.codebook_size, demo.downsample_factor) == (8192, 16)
    assert demo.fingerprint.startswith("magvit2-demo-")


def test_the_package_stays_small_with_the_demo_tokenizers() -> None:
    folder = resources.files(tokenize) / "demo"
    sizes = {item.name: len(item.read_bytes()) for item in folder.iterdir() if item.is_file()}
    assert sizes["image.safetensors"] < 8_500_000
    assert sum(sizes.values()) < 15_000_000


def test_drawings_survive_the_round_trip_better_than_as_thumbnails(
    made: list[Image.Image],
) -> None:
    """With half the bits of a thumbnail, drawings never trained on come out closer."""
    assert len(DRAWINGS) == 64
    floor = max(PSNR_FLOOR_DB, mean_psnr([thumbnail(p) for p in DRAWINGS], DRAWINGS))
    assert mean_psnr(made, DRAWINGS) > floor


def test_more_than_a_quarter_of_the_code_book_is_in_use(
    demo: ImageTokenizer, codes: torch.Tensor
) -> None:
    assert len(codes.unique()) > CODES_USED_FLOOR * demo.codebook_size


def test_bits_are_not_copies_of_each_other(codes: torch.Tensor) -> None:
    """Where a drawing is more than paper, no bit follows from another one."""
    paper = codes.flatten().mode().values
    drawn = codes[codes != paper]
    bits = np.array([(drawn.numpy() >> bit) & 1 for bit in range(13)], float)
    correlation = np.corrcoef(bits) - np.eye(13)
    assert np.abs(correlation).max() < 0.7


def test_a_picture_comes_out_as_itself(made: list[Image.Image]) -> None:
    """Each reconstruction is closer to its own original than to any other one."""
    few = DRAWINGS[::4]
    for index, picture in enumerate(made[::4]):
        likeness = [psnr(picture, original) for original in few]
        assert int(np.argmax(likeness)) == index


def test_codes_of_what_comes_out_are_steady(
    demo: ImageTokenizer, codes: torch.Tensor, made: list[Image.Image]
) -> None:
    """Codes are not noise: encoded again, a reconstruction keeps most of its bits."""
    few = slice(0, None, 8)
    again = demo.encode(torch.stack([to_pixels(picture, SIDE) for picture in made[few]]))
    changed = (again ^ codes[few]).numpy()
    flipped = sum(int(((changed >> bit) & 1).sum()) for bit in range(13)) / (13 * changed.size)
    assert flipped < 0.1
