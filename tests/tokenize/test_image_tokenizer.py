"""Codes of a picture depend on that picture and the weights alone, and wrong input is named."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from omni_diffusion.errors import CodeRangeError, MediaError, WeightsError
from omni_diffusion.tokenize.image import tokenizer as tokenizer_module
from omni_diffusion.tokenize.image.config import MagvitConfig, StackConfig
from omni_diffusion.tokenize.image.layers import Conv3x3
from omni_diffusion.tokenize.image.lfq import LookupFreeQuantizer
from omni_diffusion.tokenize.image.magvit2 import MagvitV2
from omni_diffusion.tokenize.image.preprocess import PUBLISHED
from omni_diffusion.tokenize.image.tokenizer import ImageTokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = StackConfig(ch=32, ch_mult=(1, 1, 2, 1, 1), num_res_blocks=(1, 1, 1, 1, 1))
CONFIG = MagvitConfig(encoder=TINY, decoder=TINY)


def tiny_model(seed: int = 0) -> MagvitV2:
    torch.manual_seed(seed)
    return MagvitV2(CONFIG)


def save(folder: Path, tensors: dict[str, Tensor], name: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG.to_json()))
    if name.endswith(".safetensors"):
        save_file(tensors, folder / name)
    else:
        torch.save(tensors, folder / name)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("tiny"), tiny_model().state_dict())


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> ImageTokenizer:
    return ImageTokenizer.from_pretrained(folder)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_batch_gives_each_picture_its_own_codes(tokenizer: ImageTokenizer) -> None:
    """To the last bit, in any order: shards do not depend on how pictures were batched."""
    pictures = noise(4, 3, 48, 80)
    singles = torch.cat([tokenizer.encode(picture[None]) for picture in pictures])
    assert torch.equal(tokenizer.encode(pictures), singles)
    assert torch.equal(tokenizer.encode(pictures.flip(0)), singles.flip(0))
    assert torch.equal(
        tokenizer.decode(singles, (3, 5)),
        torch.cat([tokenizer.decode(codes[None], (3, 5)) for codes in singles]),
    )


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 16), (16, 112), (64, 48)])
def test_decoding_gives_a_picture_of_the_size_encoded(
    tokenizer: ImageTokenizer, height: int, width: int
) -> None:
    pixels = noise(2, 3, height, width)
    before = pixels.clone()
    codes = tokenizer.encode(pixels)
    assert torch.equal(pixels, before)
    assert codes.dtype == torch.int32 and codes.shape == (2, height * width // 256)
    assert codes.min() >= 0 and codes.max() < tokenizer.codebook_size == 8192
    decoded = tokenizer.decode(codes, (height // 16, width // 16))
    assert decoded.shape == pixels.shape and decoded.isfinite().all()


@given(
    st.sampled_from([32, 64]),
    st.sampled_from([32, 96]),
    st.integers(1, 9),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
)
def test_fast_convolution_equals_the_plain_one(
    channels: int, depth: int, rows: int, columns: int, normed: bool, added: bool
) -> None:
    """Whatever the size, also where it is no multiple of the fast form's 4x4 blocks."""
    torch.manual_seed(rows * columns)
    conv, norm = Conv3x3(channels, depth), nn.GroupNorm(32, channels, eps=1e-6)
    nn.init.normal_(norm.weight, 1, 0.3)
    scale = 4 if rows % 2 else 1
    x = torch.randn(2, channels, rows * scale, columns * scale) * 3 + 1
    residual = torch.randn(2, depth, *x.shape[2:]) if added else None
    with torch.no_grad():
        expected = functional.conv2d(
            functional.silu(norm(x)) if normed else x, conv.weight, conv.bias, padding=1
        )
        if residual is not None:
            expected = expected + residual
        conv.freeze()
        found = conv(x, norm=norm if normed else None, residual=residual)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("threads", [1, 3])
def test_fast_networks_agree_with_the_trainable_ones(threads: int) -> None:
    """Also where a picture is several strips high and the threads share one."""
    model, pixels = tiny_model().eval(), noise(1, 3, 208, 112)
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            z = model.encoder(pixels)
            picture = model.decoder(model.quantize.lookup(model.quantize.codes(z)))
            frozen = tiny_model().freeze()
            torch.testing.assert_close(frozen.encoder(pixels), z, rtol=0, atol=2e-5)
            codes = model.quantize.codes(z)
            decoded = frozen.decoder(frozen.quantize.lookup(codes))
            torch.testing.assert_close(decoded, picture, rtol=0, atol=2e-5)
    finally:
        torch.set_num_threads(1)


def test_every_code_is_its_own_signs() -> None:
    quantize = LookupFreeQuantizer(13)
    codes = torch.arange(8192).view(2, 64, 64)
    z = quantize.lookup(codes)
    assert z[0, :, 0, 5].tolist() == [-1] * 10 + [1, -1, 1]
    assert torch.equal(quantize.codes(z), codes)
    assert torch.equal(quantize.codes(z * 0.01), codes)


def test_training_step_reaches_every_weight() -> None:
    """The straight-through estimate carries the reconstruction loss into the encoder."""
    model, pixels = tiny_model(), noise(2, 3, 32, 48)
    output = model(pixels)
    assert output.reconstruction.shape == pixels.shape and output.codes.shape == (2, 2, 3)
    functional.mse_loss(output.reconstruction, pixels).backward(retain_graph=True)
    by_picture = [weight.grad.clone() for weight in model.encoder.parameters()]
    sum(output.losses.values()).backward()
    for weight, alone in zip(model.encoder.parameters(), by_picture, strict=True):
        assert weight.grad.isfinite().all() and not torch.equal(weight.grad, alone)
    assert all(weight.grad.abs().sum() > 0 for weight in model.decoder.parameters())
    assert sum(float(gradient.abs().sum()) for gradient in by_picture) > 0


def test_losses_stay_trainable_when_every_bit_is_certain() -> None:
    z = torch.full((1, 13, 2, 2), 40.0, requires_grad=True)
    quantized = LookupFreeQuantizer(13)(z)
    (quantized.entropy_loss + quantized.commitment_loss).backward()
    assert z.grad is not None and z.grad.isfinite().all()


def test_fingerprint_names_weights_settings_and_precision(folder: Path, tmp_path: Path) -> None:
    """Two corpora mix exactly when their codes mean the same."""
    plain = ImageTokenizer.from_pretrained(folder)
    assert plain.fingerprint.startswith("magvit2-") and len(plain.fingerprint) == 24
    assert ImageTokenizer.from_pretrained(folder).fingerprint == plain.fingerprint
    tensors = tiny_model().state_dict()
    copy = save(tmp_path / "copy", dict(reversed(tensors.items())), "pytorch_model.bin")
    assert ImageTokenizer.from_pretrained(copy).fingerprint == plain.fingerprint
    tensors["encoder.conv_in.bias"][0] += 1e-3
    others = [
        ImageTokenizer.from_pretrained(folder, preprocessing=PUBLISHED),
        ImageTokenizer.from_pretrained(folder, dtype=torch.bfloat16, allow_inexact=True),
        ImageTokenizer.from_pretrained(save(tmp_path / "other", tensors)),
    ]
    assert len({other.fingerprint for other in (plain, *others)}) == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_inexact_precision_needs_consent(folder: Path, dtype: torch.dtype) -> None:
    with pytest.raises(WeightsError, match="published float32"):
        ImageTokenizer.from_pretrained(folder, dtype=dtype)


def test_inexact_precision_works_where_asked(folder: Path) -> None:
    inexact = ImageTokenizer.from_pretrained(folder, dtype=torch.bfloat16, allow_inexact=True)
    codes = inexact.encode(noise(1, 3, 32, 32))
    assert inexact.decode(codes, (2, 2)).dtype == torch.bfloat16


BAD_PIXELS = {
    "no batch": noise(3, 32, 32),
    "grey": noise(1, 1, 32, 32),
    "side 40": noise(1, 3, 32, 40),
    "empty batch": noise(0, 3, 32, 32),
    "empty side": noise(1, 3, 0, 32),
    "levels": torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
    "0 to 255": noise(1, 3, 32, 32) * 255,
    "nan": noise(1, 3, 32, 32) * float("nan"),
    "inf": noise(1, 3, 32, 32) / 0,
}


@pytest.mark.parametrize("case", BAD_PIXELS)
def test_impossible_pixels_are_refused(tokenizer: ImageTokenizer, case: str) -> None:
    with pytest.raises(MediaError, match="pixels: "):
        tokenizer.encode(BAD_PIXELS[case])


BAD_CODES = {
    "beyond the codebook": torch.tensor([[0, 8192]]),
    "negative": torch.tensor([[-1, 0]]),
    "floats": torch.tensor([[0.0, 1.0]]),
    "booleans": torch.tensor([[True, False]]),
    "too few": torch.tensor([[0]]),
    "no batch": torch.tensor([0, 1]),
}


@pytest.mark.parametrize("case", BAD_CODES)
def test_impossible_codes_are_refused(tokenizer: ImageTokenizer, case: str) -> None:
    with pytest.raises(CodeRangeError, match="image codes"):
        tokenizer.decode(BAD_CODES[case], (1, 2))


def test_unfit_weights_are_refused(tmp_path: Path) -> None:
    """Each names the file and what is wrong with it."""
    tensors = tiny_model().state_dict()
    with pytest.raises(WeightsError, match="none of"):
        (tmp_path / "empty").mkdir()
        ImageTokenizer.from_pretrained(tmp_path / "empty")
    twice = save(tmp_path / "twice", tensors, "a.safetensors")
    save(twice, tensors, "b.safetensors")
    with pytest.raises(WeightsError, match=r"a\.safetensors, b\.safetensors"):
        ImageTokenizer.from_pretrained(twice)
    ImageTokenizer.from_pretrained(twice / "b.safetensors")
    wrong = dict(tensors) | {"quantize.embedding": -tensors["quantize.embedding"]}
    with pytest.raises(WeightsError, match="binary codes"):
        ImageTokenizer.from_pretrained(save(tmp_path / "wrong", wrong))
    fewer = {key: tensor for key, tensor in tensors.items() if "conv_out" not in key}
    with pytest.raises(WeightsError, match=r"missing encoder\.conv_out\.weight"):
        ImageTokenizer.from_pretrained(save(tmp_path / "fewer", fewer))
    more = dict(tensors) | {"encoder.extra.weight": torch.zeros(2)}
    with pytest.raises(WeightsError, match=r"unexpected encoder\.extra\.weight"):
        ImageTokenizer.from_pretrained(save(tmp_path / "more", more))
    key = "decoder.conv_out.bias"
    shaped = dict(tensors) | {key: torch.zeros(4)}
    with pytest.raises(WeightsError, match=rf"{key}: checkpoint \[4\], model \[3\]"):
        ImageTokenizer.from_pretrained(save(tmp_path / "shaped", shaped))


def save_sharded(folder: Path, tensors: dict[str, Tensor], ending: str) -> dict[str, str]:
    """Spread over three files as the hub's tools do; returns the index's table."""
    table = {}
    for number in range(3):
        name = f"model-{number + 1:05}-of-00003.{ending}"
        part = dict(list(tensors.items())[number::3])
        save(folder, part, name)
        table |= dict.fromkeys(part, name)
    (folder / f"model.{ending}.index.json").write_text(json.dumps({"weight_map": table}))
    return table


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_weights_spread_over_files_are_the_same_weights(
    folder: Path, tmp_path: Path, ending: str
) -> None:
    """A folder with an index loads like one with a single file, and so does the index itself."""
    save_sharded(tmp_path, tiny_model().state_dict(), ending)
    whole = ImageTokenizer.from_pretrained(folder)
    for path in (tmp_path, tmp_path / f"model.{ending}.index.json"):
        assert ImageTokenizer.from_pretrained(path).fingerprint == whole.fingerprint


@pytest.mark.parametrize("fault", ["no_index", "no_file", "outside", "moved_key", "extra_key"])
def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path: Path, fault: str) -> None:
    table = save_sharded(tmp_path / "in", tiny_model().state_dict(), "safetensors")
    index = tmp_path / "in" / "model.safetensors.index.json"
    first, *_, last = table
    names = sorted(set(table.values()))
    reason = "does not agree with model-0000"
    match fault:
        case "no_index":
            index.unlink()
            reason = "no index that joins them"
        case "no_file":
            (tmp_path / "in" / names[1]).unlink()
            reason = f"{names[1]}: cannot be read"
        case "outside":
            (tmp_path / "in" / names[1]).rename(tmp_path / names[1])
            table = {k: f"../{v}" if v == names[1] else v for k, v in table.items()}
            reason = "not the name of a file of weights beside it"
        case "moved_key":
            table[first] = next(name for name in names if name != table[first])
        case "extra_key":
            del table[last]
    if fault != "no_index":
        index.write_text(json.dumps({"weight_map": table}))
    with pytest.raises(WeightsError, match=reason):
        ImageTokenizer.from_pretrained(tmp_path / "in")


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": []}}']
)
def test_what_is_no_index_is_refused(tmp_path: Path, text: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(WeightsError, match="cannot be read as an index"):
        ImageTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "not a JSON object"),
        ('{"encoder": {"ch_mult": [1]}}', "expected fields"),
        ('{"encoder": {"ch_mult": [1], "num_res_blocks": [1], "dropout": 0}}', "expected fields"),
        ('{"encoder": {"ch_mult": [1, 1.5], "num_res_blocks": [1, 1]}}', "not made of integers"),
        ('{"encoder": {"ch_mult": [1], "num_res_blocks": [1, 1]}}', "the same levels"),
        ('{"encoder": {"ch": 8, "ch_mult": [1], "num_res_blocks": [1]}}', "multiple of 32"),
        ('{"encoder": {"ch_mult": [1], "num_res_blocks": [0]}}', "needs a residual block"),
        ('{"encoder": {"ch_mult": [1], "num_res_blocks": [1]}}', "same number of levels"),
    ],
)
def test_unfit_configs_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(WeightsError, match=reason):
        MagvitConfig.from_json(path)


def test_config_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG.to_json()))
    assert MagvitConfig.from_json(path) == CONFIG
    path.write_text('{"_class_name": "MAGVITv2", "_diffusers_version": "0.30.1"}')
    assert MagvitConfig.from_json(path) == MagvitConfig()


def test_demo_weights_come_from_the_package_under_their_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody mistakes demo codes for published ones; a broken installation says so."""
    monkeypatch.setattr(tokenizer_module.resources, "files", lambda _: tmp_path)
    with pytest.raises(WeightsError, match="lacks the demo tokenizer's"):
        ImageTokenizer.from_pretrained("demo")
    save(tmp_path / "demo", tiny_model().state_dict(), "image.safetensors")
    (tmp_path / "demo" / "config.json").rename(tmp_path / "demo" / "image.json")
    demo = ImageTokenizer.from_pretrained("demo")
    assert demo.fingerprint.startswith("magvit2-demo-")
