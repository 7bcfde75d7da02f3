"""Pictures of any kind become pixels as documented, or are refused by name."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from omni_diffusion.errors import MediaError
from omni_diffusion.tokenize.image.preprocess import (
    PUBLISHED,
    ImagePreprocessing,
    load_picture,
    to_pictures,
    to_pixels,
    to_uint8,
)

NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def encoded(picture: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def animation(file_format: str) -> bytes:
    frames = [Image.fromarray(NOISE), Image.fromarray(NOISE[::-1].copy())]
    return encoded(frames[0], file_format, save_all=True, append_images=frames[1:])


def grey_16(levels: list[list[int]]) -> bytes:
    return encoded(Image.fromarray(np.array(levels, dtype=np.uint16)), "PNG")


REFUSED = {
    "truncated jpeg": (encoded(Image.fromarray(NOISE), "JPEG")[:-400], "truncated"),
    "truncated png": (encoded(Image.fromarray(NOISE), "PNG")[:-400], "cannot be decoded"),
    "not a picture": (b"%PDF-1.4 this is no picture", "not a picture of a format that is read"),
    "empty": (b"", "not a picture of a format that is read"),
    "1x10000": (encoded(Image.new("L", (1, 10_000)), "PNG"), "1x10000"),
    "animated gif": (animation("GIF"), "2 frames"),
    "two-page tiff": (animation("TIFF"), "2 frames"),
    "32-bit integers": (encoded(Image.new("I", (20, 20)), "TIFF"), "mode I "),
    "floating point": (encoded(Image.new("F", (20, 20)), "TIFF"), "mode F "),
    "postscript": (
        encoded(Image.fromarray(NOISE), "EPS"),
        "not a picture of a format that is read",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_pictures_are_refused_by_name(case: str) -> None:
    """One bad file in a crawl costs that file and says which and why."""
    data, reason = REFUSED[case]
    with pytest.raises(MediaError) as caught:
        load_picture(data, name="shard-7/cat.jpg")
    assert caught.value.source == "shard-7/cat.jpg"
    assert reason in caught.value.reason
    assert " at 0x" not in caught.value.reason  # the same file must give the same words


@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]),
    st.floats(0, 1),
    st.binary(min_size=1, max_size=6),
)
def test_damaged_bytes_never_raise_anything_else(
    file_format: str, where: float, junk: bytes
) -> None:
    """A worker that catches MediaError survives any file."""
    data = bytearray(encoded(Image.fromarray(NOISE), file_format))
    start = int(where * (len(data) - len(junk)))
    data[start : start + len(junk)] = junk
    try:
        assert load_picture(bytes(data)).mode == "RGB"
    except MediaError as error:
        assert error.reason


def test_missing_file_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"gone\.png: cannot be read: No such file"):
        load_picture(tmp_path / "gone.png")


def test_decompression_bomb_is_refused_before_decoding() -> None:
    """The header alone decides: the file ends right behind it."""
    bomb = encoded(Image.new("1", (9_000, 9_000)), "PNG")[:64]
    with pytest.raises(MediaError, match="81000000 pixels"):
        load_picture(bomb)
    with pytest.raises(MediaError, match="the limit is 100"):
        load_picture(encoded(Image.new("L", (11, 10)), "PNG"), ImagePreprocessing(max_pixels=100))


def test_resizing_cannot_explode_a_long_picture() -> None:
    """Where the shape is not limited, the resized picture is."""
    picture = load_picture(encoded(Image.new("L", (1, 10_000)), "PNG"), PUBLISHED)
    with pytest.raises(MediaError, match="once resized"):
        to_pixels(picture, 256, PUBLISHED)


def test_a_single_pixel_becomes_one_flat_colour() -> None:
    picture = load_picture(encoded(Image.new("RGB", (1, 1), (0, 255, 51)), "PNG"))
    pixels = to_pixels(picture, 32)
    flat = torch.tensor([-1.0, 1.0, -0.6]).view(3, 1, 1).expand(3, 32, 32)
    torch.testing.assert_close(pixels, flat)


def test_cmyk_is_converted() -> None:
    cmyk = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    assert load_picture(encoded(cmyk, "TIFF")).getpixel((5, 5)) == (255, 0, 0)


@given(st.lists(st.integers(0, 65_535), min_size=1, max_size=8))
def test_16_bit_grey_keeps_its_shades(levels: list[int]) -> None:
    """Scaled to 8 bits and rounded, where Pillow alone would turn all above 255 white."""
    picture = load_picture(grey_16([levels]))
    found = np.asarray(picture)[0, :, 0].astype(int)
    np.testing.assert_array_equal(found, [math.floor(v * 255 / 65_535 + 0.5) for v in levels])


def test_animations_give_their_first_frame_where_asked() -> None:
    settings = ImagePreprocessing(frames="first")
    for file_format in ("TIFF", "PNG"):
        np.testing.assert_array_equal(load_picture(animation(file_format), settings), NOISE)


def test_phone_pictures_with_an_auxiliary_frame_are_single_pictures() -> None:
    picture = load_picture(animation("MPO"))
    assert picture.size == (64, 48)


def test_exif_orientation_is_applied_unless_published() -> None:
    """A portrait taken on a phone stands upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(NOISE), "PNG", exif=exif)
    turned = np.rot90(NOISE, k=-1)
    np.testing.assert_array_equal(np.asarray(load_picture(data)), turned)
    np.testing.assert_array_equal(np.asarray(load_picture(data, PUBLISHED)), NOISE)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_the_background_unless_published(mode: str) -> None:
    """What nobody could see in the picture does not reach the model."""
    if mode == "P":
        picture, options = Image.new("P", (16, 16), 0), {"transparency": 0}
        picture.putpalette([0, 0, 0, 255, 255, 255])
    else:
        picture, options = Image.new(mode, (16, 16), (0,) * len(mode)), {}
    data = encoded(picture, "PNG", **options)
    blue = ImagePreprocessing(background=(0, 0, 255))
    assert load_picture(data, blue).getpixel((3, 3)) == (0, 0, 255)
    assert load_picture(data).getpixel((3, 3)) == (255, 255, 255)
    assert load_picture(data, PUBLISHED).getpixel((3, 3)) == (0, 0, 0)


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([16, 32, 48]))
def test_uncropped_pictures_keep_their_shape(width: int, height: int, resolution: int) -> None:
    """Sides are multiples of 16 and the longer one is within 8 pixels of true to scale."""
    settings = ImagePreprocessing(crop="none", max_aspect_ratio=math.inf)
    pixels = to_pixels(Image.new("RGB", (width, height)), resolution, settings)
    sides = pixels.shape[2], pixels.shape[1]
    assert min(sides) == resolution and max(sides) % 16 == 0
    assert (width <= height) == (sides[0] <= sides[1]) or sides[0] == sides[1]
    assert abs(max(sides) - resolution * max(width, height) / min(width, height)) <= 8


@given(st.integers(1, 200), st.integers(1, 200))
def test_cropped_pictures_are_squares_in_range(width: int, height: int) -> None:
    settings = ImagePreprocessing(max_aspect_ratio=math.inf)
    pixels = to_pixels(Image.fromarray(NOISE).resize((width, height)), 32, settings)
    assert pixels.shape == (3, 32, 32) and pixels.dtype == torch.float32
    assert pixels.abs().max() <= 1


@pytest.mark.parametrize("resolution", [0, 8, 250])
def test_impossible_resolutions_are_refused(resolution: int) -> None:
    with pytest.raises(MediaError, match="not a multiple of 16"):
        to_pixels(Image.new("RGB", (64, 64)), resolution)


def test_pictures_of_another_mode_are_refused() -> None:
    with pytest.raises(MediaError, match="mode L"):
        to_pixels(Image.new("L", (64, 64)), 32, name="grey.png")


@pytest.mark.parametrize(
    "setting",
    [
        {"alpha": "keep"},
        {"crop": "left"},
        {"frames": "all"},
        {"background": (0, 0, 256)},
        {"max_pixels": 0},
        {"max_aspect_ratio": 0.5},
    ],
)
def test_impossible_settings_are_refused(setting: dict) -> None:
    with pytest.raises(MediaError, match=next(iter(setting))):
        ImagePreprocessing(**setting)


def test_levels_survive_the_way_to_pixels_and_back() -> None:
    """Truncation, as published, costs at most one level and only where float32 rounds down."""
    picture = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    back = to_pictures(to_pixels(picture, 16).unsqueeze(0))[0]
    difference = np.asarray(picture).astype(int) - np.asarray(back)
    assert set(np.unique(difference)) <= {0, 1}


def test_decoded_pixels_are_cut_off_truncated_and_must_be_finite() -> None:
    pixels = torch.tensor([-7.0, -1.0, 0.0, 0.999, 7.0]).expand(1, 3, 1, 5).clone()
    assert to_uint8(pixels)[0, 0, :, 0].tolist() == [0, 0, 127, 254, 255]
    pixels[0, 1, 0, 2] = math.nan
    with pytest.raises(MediaError, match="not finite"):
        to_uint8(pixels)
