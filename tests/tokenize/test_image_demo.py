"""The tokenizer that ships in the package turns pictures into codes and back, right after install.

The pictures under `data/` were kept out of its training: drawings of OpenMoji (openmoji.org,
CC-BY-SA-4.0), rendered on white, and shapes of easy-vqa's test part (MIT), enlarged.
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

SIDE, GRID = 256, (16, 16)
CODES_USED_FLOOR = 200
DATA = Path(__file__).parent / "data"
ORIGINALS = {
    part: [load_picture(path) for path in sorted(DATA.glob(f"{part}-*.png"))]
    for part in ("openmoji", "easy-vqa")
}
PICTURES = [picture for part in ORIGINALS.values() for picture in part]


@pytest.fixture(scope="module")
def demo() -> ImageTokenizer:
    return ImageTokenizer.from_pretrained("demo")


@pytest.fixture(scope="module")
def codes(demo: ImageTokenizer) -> torch.Tensor:
    return demo.encode(torch.stack([to_pixels(picture, SIDE) for picture in PICTURES]))


@pytest.fixture(scope="module")
def made(demo: ImageTokenizer, codes: torch.Tensor) -> list[Image.Image]:
    return to_pictures(demo.decode(codes, GRID))


def psnr(a: Image.Image, b: Image.Image) -> float:
    error = np.mean(np.square(np.asarray(a, np.float64) - np.asarray(b, np.float64)))
    return float(10 * math.log10(255**2 / error))


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
    originals = ORIGINALS["openmoji"]
    assert originals
    ours = [psnr(*pair) for pair in zip(made[: len(originals)], originals, strict=True)]
    theirs = [psnr(thumbnail(picture), picture) for picture in originals]
    assert np.mean(ours) > np.mean(theirs), (ours, theirs)


def test_the_codebook_has_not_collapsed(codes: torch.Tensor) -> None:
    """A handful of pictures, half of them white paper, already takes hundreds of codes."""
    assert len(set(codes.flatten().tolist())) > CODES_USED_FLOOR


def test_a_picture_comes_out_as_itself(made: list[Image.Image]) -> None:
    """Each reconstruction is closer to its own original than to any other one."""
    for index, picture in enumerate(made):
        likeness = [psnr(picture, original) for original in PICTURES]
        assert int(np.argmax(likeness)) == index
