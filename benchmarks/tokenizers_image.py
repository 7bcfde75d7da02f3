"""CPU cost of the image tokenizer at the published sizes, ours against plain eager torch.

Both sides share random weights and see the same pictures one at a time, since neither gains from
a batch on a CPU. The plain side is what one writes first, and what the published code does: torch's
default memory layout, one operation after the other.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_diffusion.tokenize.image.layers import AttentionBlock, Level, Middle, ResnetBlock
from omni_diffusion.tokenize.image.magvit2 import Decoder, Encoder, MagvitV2
from omni_diffusion.tokenize.image.preprocess import ImagePreprocessing
from omni_diffusion.tokenize.image.tokenizer import ImageTokenizer

SETTLED_MARGIN = 1e-3
"""Latents closer to zero than this may fall on either side of it."""


def random_model() -> MagvitV2:
    """The published sizes, scaled so that the latents keep a natural size through all layers."""
    torch.manual_seed(0)
    model = MagvitV2().eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.dim() == 4:
            weight.normal_(0, 1.6 * weight[0].numel() ** -0.5)
    return model


def make_pictures(images: int, resolution: int) -> list[Tensor]:
    """Pictures `[1, 3, resolution, resolution]` of coloured patches with a little grain."""
    generator = torch.Generator().manual_seed(resolution)
    pictures = []
    for _ in range(images):
        patches = torch.rand(1, 3, 8, 8, generator=generator)
        smooth = F.interpolate(patches, size=(resolution, resolution), mode="bicubic")
        grain = torch.randn(smooth.shape, generator=generator)
        pictures.append((2 * smooth - 1 + 0.03 * grain).clamp(-1, 1))
    return pictures


def plain_conv(conv: nn.Module, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """A convolution as torch does it, whatever faster form the module has."""
    weight, bias = cast(Tensor, conv.weight), cast(Tensor, conv.bias)
    return F.conv2d(x, weight, bias, stride=stride, padding=padding)


def norm_swish(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Normalise, then `x * sigmoid(x)`."""
    x = norm(x)
    return x * torch.sigmoid(x)


def plain_block(block: ResnetBlock, x: Tensor) -> Tensor:
    """A residual block."""
    h = plain_conv(block.conv1, norm_swish(block.norm1, x), padding=1)
    h = plain_conv(block.conv2, norm_swish(block.norm2, h), padding=1)
    return h + (x if block.nin_shortcut is None else plain_conv(block.nin_shortcut, x))


def plain_attention(block: AttentionBlock, x: Tensor) -> Tensor:
    """Attention with all its weights written out."""
    h = block.norm(x)
    q, k, v = (plain_conv(conv, h).flatten(2) for conv in (block.q, block.k, block.v))
    weights = torch.softmax(torch.bmm(q.transpose(1, 2), k) * x.shape[1] ** -0.5, dim=2)
    return x + plain_conv(block.proj_out, torch.bmm(v, weights.transpose(1, 2)).view(x.shape))


def plain_middle(mid: Middle, x: Tensor) -> Tensor:
    """The blocks at the lowest resolution."""
    return plain_block(mid.block_2, plain_attention(mid.attn_1, plain_block(mid.block_1, x)))


def plain_level(level: Level, x: Tensor) -> Tensor:
    """The blocks of one resolution and the way to the next."""
    for block in level.block:
        x = plain_block(cast(ResnetBlock, block), x)
    if level.downsample is not None:
        x = plain_conv(level.downsample.conv, F.pad(x, (0, 1, 0, 1)), stride=2)
    if level.upsample is not None:
        x = plain_conv(level.upsample.conv, F.interpolate(x, scale_factor=2.0), padding=1)
    return x


def plain_encode(encoder: Encoder, pixels: Tensor) -> Tensor:
    """Pixels to latents."""
    h = plain_conv(encoder.conv_in, pixels, padding=1)
    for level in encoder.down:
        h = plain_level(cast(Level, level), h)
    h = norm_swish(encoder.norm_out, plain_middle(encoder.mid, h))
    return plain_conv(encoder.quant_conv, plain_conv(encoder.conv_out, h, padding=1))


def plain_decode(decoder: Decoder, z: Tensor) -> Tensor:
    """Latents to pixels."""
    h = plain_conv(decoder.conv_in, plain_conv(decoder.post_quant_conv, z), padding=1)
    h = plain_middle(decoder.mid, h)
    for level in reversed(decoder.up):
        h = plain_level(cast(Level, level), h)
    return plain_conv(decoder.conv_out, norm_swish(decoder.norm_out, h), padding=1)


def cpu_seconds(work: Callable[[], list[Tensor]]) -> tuple[float, Tensor]:
    """Processor time of one call, and its results as one tensor."""
    start = time.process_time()
    found = work()
    return time.process_time() - start, torch.cat(found)


def alternate(
    plain: Callable[[], list[Tensor]], ours: Callable[[], list[Tensor]], images: int, repeats: int
) -> tuple[dict[str, float], Tensor, Tensor]:
    """Medians over alternating runs, and what both sides computed."""
    times: tuple[list[float], list[float]] = [], []
    for _ in range(repeats):
        plain_s, plain_found = cpu_seconds(plain)
        ours_s, ours_found = cpu_seconds(ours)
        times[0].append(plain_s)
        times[1].append(ours_s)
    plain_s, ours_s = map(statistics.median, times)
    figures = {
        "plain_images_per_cpu_s": round(images / plain_s, 4),
        "ours_images_per_cpu_s": round(images / ours_s, 4),
        "speedup": round(plain_s / ours_s, 3),
    }
    return figures, plain_found, ours_found


@torch.inference_mode()
def measure(plain: MagvitV2, ours: ImageTokenizer, pictures: list[Tensor], repeats: int) -> Any:
    """Encode and decode `pictures` both ways."""
    encode, z, codes = alternate(
        lambda: [plain_encode(plain.encoder, picture) for picture in pictures],
        lambda: [ours.encode(picture) for picture in pictures],
        len(pictures),
        repeats,
    )
    grid = (z.shape[2], z.shape[3])
    signs = plain.quantize.lookup(codes.view(-1, *grid))
    decode, plain_pixels, pixels = alternate(
        lambda: [plain_decode(plain.decoder, row[None]) for row in signs],
        lambda: [ours.decode(row[None], grid) for row in codes],
        len(pictures),
        repeats,
    )
    settled = z.abs().amin(1).flatten(1) >= SETTLED_MARGIN
    equal = plain.quantize.codes(z).flatten(1) == codes
    return {
        "encode": encode,
        "decode": decode,
        "codes": codes.numel(),
        "settled_codes": int(settled.sum()),
        "settled_codes_differing": int((settled & ~equal).sum()),
        "unsettled_codes_differing": int((~settled & ~equal).sum()),
        "pixels_largest_difference": float((plain_pixels - pixels).abs().max()),
    }


def run(
    images: int = 2,
    repeats: int = 3,
    resolutions: Sequence[int] = (256, 512),
    threads: int = 1,
) -> dict[str, Any]:
    """Measure both sides.

    Args:
        images: pictures of each resolution.
        repeats: alternating rounds; medians are reported.
        resolutions: sides of the square pictures, multiples of 16; `images=1, repeats=1,
            resolutions=(128,)` make a short run.
        threads: torch's threads.

    Returns:
        For each resolution: images per CPU-second on both sides and their ratio, for encoding and
        decoding, and how many codes differ, apart for latents clear of zero and not.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    plain, model = random_model(), MagvitV2()
    model.load_state_dict(plain.state_dict())
    ours = ImageTokenizer(model, name="magvit2-random", preprocessing=ImagePreprocessing())
    warm_up = make_pictures(1, 64)
    measure(plain, ours, warm_up, 1)
    found = {
        str(side): measure(plain, ours, make_pictures(images, side), repeats)
        for side in resolutions
    }
    torch.set_num_threads(before)
    return {"images": images, "repeats": repeats, "threads": threads, "resolutions": found}
