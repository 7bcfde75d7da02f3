"""Our image tokenizer gives the published one's codes, pixels and losses."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from agreement import assert_close, assert_recipe_followed, assert_same_codes, keyed_randn
from omni_diffusion.tokenize.image.config import MagvitConfig
from omni_diffusion.tokenize.image.lfq import LookupFreeQuantizer
from omni_diffusion.tokenize.image.magvit2 import MagvitV2
from omni_diffusion.tokenize.image.preprocess import (
    PUBLISHED,
    ImagePreprocessing,
    load_picture,
    to_pixels,
    to_uint8,
)
from omni_diffusion.tokenize.image.tokenizer import ImageTokenizer
from omni_diffusion.tokenize.weights import load_into, load_tensors
from vectors import vector_set

pytestmark = pytest.mark.usefixtures("one_thread")

SET = vector_set("magvit2")
REDUCED = dict(np.load(SET / "reduced_expected.npz"))
FULL = dict(np.load(SET / "full_expected.npz"))
PICTURES = json.loads((SET / "preprocess" / "expected.json").read_bytes())
Z_TOLERANCE, PIXEL_TOLERANCE, SETTLED_MARGIN = 1e-4, 1e-3, 1e-3


def names(arrays: dict[str, np.ndarray], field: str) -> list[str]:
    """Cases of a set that have this array: `64x96` of `64x96.tokens`."""
    return sorted(key.removesuffix(field) for key in arrays if key.endswith(field))


def pixels_of(path: Path) -> Tensor:
    levels = np.array(Image.open(path).convert("RGB"))
    return torch.from_numpy(levels).permute(2, 0, 1)[None].float().div(255).sub(0.5).div(0.5)


def grid_of(case: str) -> tuple[int, int]:
    height, width = case.removeprefix("dec").split("x")
    return int(height), int(width)


@pytest.fixture(scope="module")
def reduced_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reduced")
    shutil.copy(SET / "reduced_model.safetensors", folder / "diffusion_pytorch_model.safetensors")
    shutil.copy(SET / "reduced_config.json", folder / "config.json")
    return folder


@pytest.fixture(scope="module")
def reduced(reduced_folder: Path) -> ImageTokenizer:
    return ImageTokenizer.from_pretrained(reduced_folder)


@pytest.fixture(scope="module", params=["trainable", "frozen"])
def reduced_model(request: pytest.FixtureRequest) -> MagvitV2:
    """The same weights in both forms: as trained, and with the CPU's fast convolutions."""
    model = MagvitV2(MagvitConfig.from_json(SET / "reduced_config.json"))
    load_into(model, load_tensors(SET / "reduced_model.safetensors"), "reduced")
    return model.freeze() if request.param == "frozen" else model.eval()


@pytest.mark.parametrize("case", names(REDUCED, ".tokens"))
def test_latents_are_the_published_ones(reduced_model: MagvitV2, case: str) -> None:
    with torch.no_grad():
        z = reduced_model.encoder(pixels_of(SET / f"reduced_in_{case}.png"))
    assert_close(z, REDUCED[f"{case}.z"], Z_TOLERANCE)


@pytest.mark.parametrize("case", names(REDUCED, ".tokens"))
def test_codes_are_the_published_ones(reduced: ImageTokenizer, case: str) -> None:
    codes = reduced.encode(pixels_of(SET / f"reduced_in_{case}.png"))
    assert_same_codes(codes, REDUCED[f"{case}.tokens"], REDUCED[f"{case}.margin"], SETTLED_MARGIN)


@pytest.mark.parametrize("case", names(REDUCED, ".ids"))
def test_decoded_pixels_are_the_published_ones(reduced: ImageTokenizer, case: str) -> None:
    pixels = reduced.decode(torch.from_numpy(REDUCED[f"{case}.ids"]), grid_of(case))
    assert_close(pixels, REDUCED[f"{case}.out"], PIXEL_TOLERANCE)


@pytest.mark.parametrize("case", names(REDUCED, ".ids"))
def test_trainable_decoder_gives_the_same_pixels(reduced_model: MagvitV2, case: str) -> None:
    codes = torch.from_numpy(REDUCED[f"{case}.ids"]).unflatten(1, grid_of(case))
    with torch.no_grad():
        pixels = reduced_model.decoder(reduced_model.quantize.lookup(codes))
    assert_close(pixels, REDUCED[f"{case}.out"], PIXEL_TOLERANCE)


def test_quantiser_gives_the_published_codes_and_losses() -> None:
    """A zero of either sign counts as bit 0; both losses are upstream's."""
    expected = np.load(SET / "lfq_expected.npz")
    z = torch.from_numpy(expected["z"])
    quantized = LookupFreeQuantizer(z.shape[1])(z)
    np.testing.assert_array_equal(quantized.codes.numpy(), expected["indices"][:, 0])
    assert_close(quantized.z, expected["z_q"], 1e-6)
    assert_close(quantized.entropy_loss, expected["entropy_loss"], 1e-6)
    assert_close(quantized.commitment_loss, expected["quantizer_loss"], 1e-6)


@pytest.mark.parametrize("resolution", ["256", "512"])
@pytest.mark.parametrize("name", PICTURES["images"])
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_published_preset_prepares_pixels_bit_for_bit(name: str, resolution: str) -> None:
    """Exact with the recorded Pillow release, within one level with another."""
    expected = PICTURES["images"][name][resolution]
    picture = load_picture(SET / "preprocess" / f"{name}.png", PUBLISHED)
    pixels = to_pixels(picture, int(resolution), PUBLISHED)
    levels = pixels.mul(0.5).add(0.5).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    rows, columns = np.array(expected["pixels_yx"]).T
    if PICTURES["pillow"] == PIL.__version__:
        assert hashlib.sha256(levels.tobytes()).hexdigest() == expected["sha256_uint8_hwc"]
        found = pixels.permute(1, 2, 0)[rows, columns]
        np.testing.assert_array_equal(found, np.float32(expected["pixels_float32_rgb"]))
    else:
        found = levels[rows, columns].astype(int)
        assert np.abs(found - np.array(expected["pixels_uint8_rgb"])).max() <= 1


def test_default_preprocessing_differs_from_published_only_where_it_says() -> None:
    """A plain opaque upright picture comes out the same under both presets."""
    for name, about in PICTURES["images"].items():
        path = SET / "preprocess" / f"{name}.png"
        with Image.open(path) as picture:
            plain = not picture.has_transparency_data and not picture.getexif()
        if plain and about["file_mode"] in ("RGB", "L"):
            published = to_pixels(load_picture(path, PUBLISHED), 256, PUBLISHED)
            assert torch.equal(to_pixels(load_picture(path), 256, ImagePreprocessing()), published)


def fill_by_recipe(model: MagvitV2, seed: int, gain: float) -> None:
    """The README's recipe; the quantiser's tables are already the ones it states."""
    for key, tensor in model.state_dict().items():
        if key.startswith("quantize."):
            continue
        random = keyed_randn(key, tensor.shape, seed)
        if tensor.dim() == 4:
            tensor.copy_(random * gain * tensor[0].numel() ** -0.5)
        elif ".norm" in key and key.endswith("weight"):
            tensor.copy_(1 + 0.1 * random)
        else:
            tensor.copy_(0.1 * random)


@pytest.fixture(scope="module")
def full_check() -> dict:
    return json.loads((SET / "full_recipe_check.json").read_bytes())


@pytest.fixture(scope="module")
def full(full_check: dict) -> ImageTokenizer:
    model = MagvitV2()
    fill_by_recipe(model, full_check["recipe_seed"], full_check["gain"])
    state = model.state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == full_check["shapes"]
    assert_recipe_followed(state, full_check["weight_checks"])
    return ImageTokenizer(model, name="magvit2", preprocessing=PUBLISHED)


@pytest.mark.slow
@pytest.mark.parametrize("case", names(FULL, ".tokens"))
def test_full_size_codes_are_the_published_ones(full: ImageTokenizer, case: str) -> None:
    pixels = pixels_of(SET / f"full_in_{case}.png")
    with torch.inference_mode():
        assert_close(full._model.encoder(pixels), FULL[f"{case}.z"], Z_TOLERANCE)
    assert_same_codes(
        full.encode(pixels), FULL[f"{case}.tokens"], FULL[f"{case}.margin"], SETTLED_MARGIN
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", names(FULL, ".ids"))
def test_full_size_pixels_are_the_published_ones(
    full: ImageTokenizer, full_check: dict, case: str
) -> None:
    pixels = full.decode(torch.from_numpy(FULL[f"{case}.ids"]), grid_of(case))
    assert_close(functional.avg_pool2d(pixels, 8), FULL[f"{case}.avgpool8"], PIXEL_TOLERANCE)
    assert_close(pixels[0, :, 100, :], FULL[f"{case}.row100"], PIXEL_TOLERANCE)
    assert_close(pixels[0, :, :, 37], FULL[f"{case}.col37"], PIXEL_TOLERANCE)
    about = full_check[case]
    assert_close(pixels[0].mean((1, 2)), np.array(about["mean"]), PIXEL_TOLERANCE)
    levels = to_uint8(pixels)[0].double().mean((0, 1))
    assert_close(levels, np.array(about["uint8_mean"]), 0.01)
