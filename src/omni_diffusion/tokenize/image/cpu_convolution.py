"""Faster 3x3 convolutions for encoding and decoding on a CPU in float32.

Most of the tokenizer's time goes into `conv(swish(group_norm(x)))`. Here the three are one pass
over the picture in strips that stay in the processor's cache, and the convolution itself is
Winograd's F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308): every 4x4 block of the result takes 36
multiplications a channel pair instead of 144. The normalisation's statistics are taken around the
mean, strip by strip; torch's own channels-last kernel was measured to cost more accuracy than
everything else together.

Tensors here are float32, `[B, C, H, W]` in channels-last memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

# Sizes that keep a strip in a core's cache, for each of torch's threads. One thread a process and
# several processes use a machine best: the steps are short, and threads wait for each other.
_TILES_PER_THREAD = 96
_PIXELS_PER_THREAD = 1024

# Winograd's kernels are four times the size of the convolution's own. Above this many numbers the
# gain, at the low resolutions where wide layers are, is not worth the memory; with this limit the
# kernels take 351 MiB at the published sizes.
_LARGEST_WEIGHT = 9 * 256 * 512

_KERNEL: Sequence[Sequence[float]] = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_OUTPUT = [
    [1, 1, 1, 1, 1, 0],
    [0, 1, -1, 2, -2, 0],
    [0, 1, 1, 4, 4, 0],
    [0, 1, -1, 8, -8, 1],
]


class Affine(NamedTuple):
    """A normalisation as `x * scale + shift`, both `[B, C]`, or `[C]` for one picture."""

    scale: Tensor
    shift: Tensor


class CpuConvolution:
    """A frozen 3x3 convolution with stride 1 and padding 1.

    It does not follow later changes of the weights.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        """Transform the weights of `conv`, float32 on the CPU."""
        assert conv.bias is not None
        self._weight = conv.weight.detach()
        self._bias = conv.bias.detach()
        self._kernel: Tensor | None = None
        wide_enough = min(conv.in_channels, conv.out_channels) >= 32
        if wide_enough and self._weight.numel() <= _LARGEST_WEIGHT:
            self._kernel = _transform_kernel(self._weight)

    def __call__(self, x: Tensor, norm: nn.GroupNorm | None, residual: Tensor | None) -> Tensor:
        """`conv(x)`, or `conv(swish(norm(x)))`; added to `residual` in place where one is given.

        Args:
            x: `[B, C, H, W]`.
            norm: applied to `x` first, followed by swish.
            residual: `[B, O, H, W]`, overwritten with the result.

        Returns:
            `[B, O, H, W]`.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        affine = None if norm is None else _affine_of(norm, x)
        if self._kernel is None or x.shape[2] % 4 or x.shape[3] % 4:
            if affine is not None:
                x = _normalise(x, affine.scale[:, :, None, None], affine.shift[:, :, None, None])
            out = functional.conv2d(x, self._weight, self._bias, padding=1)
            return out if residual is None else residual.add_(out)
        shape = (x.shape[0], self._weight.shape[0], *x.shape[2:])
        out = torch.empty(shape, memory_format=torch.channels_last)
        if residual is not None:
            out = residual.contiguous(memory_format=torch.channels_last)
        for index in range(len(x)):
            row = None if affine is None else Affine(affine.scale[index], affine.shift[index])
            source, target = x[index].permute(1, 2, 0), out[index].permute(1, 2, 0)
            self._convolve(source, row, target, self._kernel, add=residual is not None)
        return out

    def _convolve(
        self, x: Tensor, affine: Affine | None, out: Tensor, kernel: Tensor, *, add: bool
    ) -> None:
        """One picture `[H, W, C]` into `out` `[H, W, O]`, a strip of tile rows at a time."""
        height, width, channels = x.shape
        columns, depth = width // 4, out.shape[2]
        step = min(max(1, _TILES_PER_THREAD * torch.get_num_threads() // columns), height // 4)
        padded = x.new_zeros(4 * step + 2, width + 2, channels)
        gathered = x.new_empty(36 * step * columns * channels)
        mixed = x.new_empty(36 * step * columns * max(channels, depth))
        product = x.new_empty(36 * step * columns * depth)
        to_spectrum, to_pixels = _matrix(_INPUT).float(), _matrix(_OUTPUT).float()
        for first in range(0, height // 4, step):
            rows = min(step, height // 4 - first)
            tiles = rows * columns
            strip = padded[: 4 * rows + 2]
            _fill(strip, x, 4 * first - 1, affine)
            blocks = gathered[: 36 * tiles * channels].view(6, 6, rows, columns, channels)
            blocks.copy_(_tiles(strip, rows, columns))
            spectrum = mixed[: 36 * tiles * channels].view(36, -1)
            torch.mm(to_spectrum, blocks.view(36, -1), out=spectrum)
            summed = product[: 36 * tiles * depth].view(36, tiles, depth)
            torch.bmm(spectrum.view(36, tiles, channels), kernel, out=summed)
            pixels = mixed[: 16 * tiles * depth].view(16, -1)
            torch.mm(to_pixels, summed.view(36, -1), out=pixels)
            result = pixels.view(4, 4, rows, columns, depth)
            target = out[4 * first : 4 * (first + rows)].view(rows, 4, columns, 4, depth)
            target = target.permute(1, 3, 0, 2, 4)
            if add:
                target.add_(result.add_(self._bias))
            else:
                torch.add(result, self._bias, out=target)


def _affine_of(norm: nn.GroupNorm, x: Tensor) -> Affine:
    """Scale and shift that `norm` applies to each channel of each picture in `x`."""
    moments = torch.stack([_moments(image.permute(1, 2, 0).flatten(0, 1)) for image in x], dim=1)
    mean, variance = moments.view(2, len(x), norm.num_groups, -1)
    centre = mean.mean(2, keepdim=True)
    # The spread of a group is that of its channels plus that between their means.
    spread = (variance + (mean - centre).square()).mean(2, keepdim=True)
    inverse = (spread + norm.eps).rsqrt()
    scale = inverse.expand_as(mean).flatten(1) * norm.weight
    shift = norm.bias - centre.expand_as(mean).flatten(1) * scale
    return Affine(scale.float(), shift.float())


def _moments(pixels: Tensor) -> Tensor:
    """Mean and variance, float64 `[2, C]`, of each channel of `[n, C]`."""
    mean = pixels.sum(0) / len(pixels)
    total = torch.zeros_like(mean, dtype=torch.float64)
    step = _PIXELS_PER_THREAD * torch.get_num_threads()
    for start in range(0, len(pixels), step):
        block = pixels[start : start + step]
        total += (block - mean).square_().sum(0)
    return torch.stack([mean.double(), total / len(pixels)])


def _normalise(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor | None = None) -> Tensor:
    """`swish(x * scale + shift)`."""
    return functional.silu(torch.addcmul(shift, x, scale, out=out), inplace=True)


def _fill(strip: Tensor, x: Tensor, top: int, affine: Affine | None) -> None:
    """Rows of `x` from `top` on into `strip` `[rows, W + 2, C]`, zeros beyond the picture.

    The left and right columns are never written, so they stay zero.
    """
    first, last = max(top, 0), min(top + len(strip), len(x))
    inside = strip[first - top : last - top, 1:-1]
    if affine is None:
        inside.copy_(x[first:last])
    else:
        _normalise(x[first:last], affine.scale, affine.shift, out=inside)
    strip[: first - top].zero_()
    strip[last - top :].zero_()


def _tiles(strip: Tensor, rows: int, columns: int) -> Tensor:
    """View of the overlapping 6x6 tiles, `[6, 6, rows, columns, C]`, of a padded strip."""
    line, pixel, channel = strip.stride()
    shape = (6, 6, rows, columns, strip.shape[2])
    return strip.as_strided(shape, (line, pixel, 4 * line, 4 * pixel, channel))


def _transform_kernel(weight: Tensor) -> Tensor:
    """Weights `[O, C, 3, 3]` as 36 matrices `[36, C, O]`."""
    depth, channels = weight.shape[:2]
    taps = weight.permute(2, 3, 1, 0).reshape(9, -1).double()
    return (_matrix(_KERNEL) @ taps).float().view(36, channels, depth)


def _matrix(side: Sequence[Sequence[float]]) -> Tensor:
    """The two-dimensional transform (float64) of which `side` is the one-dimensional."""
    matrix = torch.tensor(side, dtype=torch.float64)
    return torch.kron(matrix, matrix)
