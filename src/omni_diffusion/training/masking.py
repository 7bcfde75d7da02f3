"""Which tokens are hidden, and what each hidden one counts: the forward process of the diffusion.

Only supervised positions are ever hidden: a sample's L content positions, and its tail pads, which
are hidden at gamma times the ratio of the content. Three presets:

* `paper`: one t ~ U(0, 1) a sample; each position is hidden with probability t.
* `published-code`: a t for every token, so half of any answer is hidden, always (notes on
  `forward_process` of the published `dataset_qwen2.py`). Reproduces how the released checkpoint
  was trained.
* `low-variance` (default): the number of hidden positions is exact, k = 1 + floor(t L) with t
  spread evenly over the samples of a step (`steps.spread_times`), and every subset of that size is
  equally likely. The expected gradient is that of `paper` under the same weighting.

Two weightings:

* `none`: the loss of the paper, E_t[sum over hidden]. A count from 1 to L leaves out k = 0, which
  adds nothing but is drawn once in L + 1 times; the weight L / (L + 1) accounts for that.
* `inverse`: each hidden token counts 1 / t (with an exact count L / k): the evidence bound. With
  independent draws a few small t make most of its variance, which exact counts take away; so it is
  the default of `low-variance` only.

All draws are named by sample and position (`noise.py`), so masks do not depend on batch, rank or
restart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_diffusion.training.noise import Purpose, Words, draws, uniforms
from omni_diffusion.training.recipe import MaskingRecipe

Flags = NDArray[np.bool_]
Reals = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Supervised:
    """The m supervised positions of n samples, sample by sample.

    Attributes:
        owner: int64 [m], which sample each belongs to, not falling.
        place: int64 [m], its place in the sample's sequence.
        tail: bool [m], whether it is a tail pad.
        key: uint64 [n], names the noise of each sample.
        time: float64 [n], in (0, 1), for the presets that want evenly spread ratios.
    """

    owner: Whole
    place: Whole
    tail: Flags
    key: Words
    time: Reals

    def words(self, purpose: Purpose) -> Words:
        """64 random bits for each position."""
        return draws(self.key[self.owner], purpose, self.place)

    def of_samples(self, purpose: Purpose) -> Reals:
        """A number in (0, 1) for each sample."""
        return uniforms(draws(self.key, purpose))


@dataclass(frozen=True, kw_only=True, eq=False)
class Masking:
    """What is hidden.

    Attributes:
        masked: bool [m].
        weight: float64 [m], of the loss at each position; 0 where nothing is hidden.
        ratio: float64 [n], mask ratio of each sample's content.
    """

    masked: Flags
    weight: Reals
    ratio: Reals


def mask(positions: Supervised, recipe: MaskingRecipe) -> Masking:
    """Hide positions as the recipe says."""
    preset = {
        "low-variance": mask_exact_count,
        "paper": mask_per_sample,
        "published-code": mask_per_token,
    }[recipe.preset]
    return preset(positions, recipe.tail_pad_ratio, inverse=recipe.inverse)


def mask_per_sample(positions: Supervised, gamma: float, *, inverse: bool) -> Masking:
    """One ratio a sample, each position for itself (eq. 1 of the paper)."""
    ratio = positions.of_samples(Purpose.RATIO)
    of_position = ratio[positions.owner]
    uniform = uniforms(positions.words(Purpose.TOKENS))
    masked = uniform < np.where(positions.tail, gamma * of_position, of_position)
    weight = masked / of_position if inverse else masked.astype(np.float64)
    return Masking(masked=masked, weight=weight, ratio=ratio)


def mask_per_token(positions: Supervised, gamma: float, *, inverse: bool) -> Masking:
    """A ratio for every token, as the published code does."""
    threshold = published_threshold(uniforms(positions.words(Purpose.THRESHOLDS)))
    uniform = uniforms(positions.words(Purpose.TOKENS))
    masked = published_masked(uniform, threshold, positions.tail, gamma)
    weight = masked / threshold if inverse else masked.astype(np.float64)
    content = ~positions.tail
    hidden = _count(positions, content & masked)
    ratio = hidden / np.maximum(_count(positions, content), 1)
    return Masking(masked=masked, weight=weight, ratio=ratio)


def published_threshold(t: NDArray[Any]) -> NDArray[Any]:
    """The published code keeps ratios above 0.001: t' = 0.999 t + 0.001, in t's own precision."""
    threshold: NDArray[Any] = t.dtype.type(1 - 1e-3) * t + t.dtype.type(1e-3)
    return threshold


def published_masked(
    uniform: NDArray[Any], threshold: NDArray[Any], tail: Flags, gamma: float
) -> Flags:
    """Where the published code hides a token: at most its threshold, a part of it for a pad."""
    masked: Flags = uniform <= np.where(tail, uniform.dtype.type(gamma) * threshold, threshold)
    return masked


def mask_exact_count(positions: Supervised, gamma: float, *, inverse: bool) -> Masking:
    """An exact number of positions, evenly spread over samples.

    The number of tail pads is gamma times the ratio times their number, rounded up or down at
    random so that it is right on average.
    """
    content = ~positions.tail
    length, pads = _count(positions, content), _count(positions, positions.tail)
    count = np.minimum(1 + (positions.time * length).astype(np.int64), length)
    ratio = np.where(length > 0, count / np.maximum(length, 1), positions.time)
    rounding = positions.of_samples(Purpose.TAIL_COUNT)
    pad_count = (gamma * ratio * pads + rounding).astype(np.int64)

    rank = _rank(positions)
    masked = rank < np.where(positions.tail, pad_count[positions.owner], count[positions.owner])
    of_sample = 1 / ratio if inverse else np.where(length > 0, length / (length + 1), 1.0)
    return Masking(masked=masked, weight=masked * of_sample[positions.owner], ratio=ratio)


def _rank(positions: Supervised) -> Whole:
    """Random rank, from 0, of each position among its sample's content or its tail pads."""
    group = (2 * positions.owner + positions.tail).astype(np.uint64)
    words = positions.words(Purpose.TOKENS)
    # One sort for all samples: the group in the upper 24 bits, the draw below.
    order = np.argsort((group << np.uint64(40)) | (words >> np.uint64(24)), kind="stable")
    ordered = group[order]
    first = np.flatnonzero(np.diff(ordered, prepend=np.uint64(2**64 - 1)))
    sizes = np.diff(first, append=len(order))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(first, sizes)
    return rank


def _count(positions: Supervised, which: Flags) -> Whole:
    """How many of some positions each sample has."""
    return np.bincount(positions.owner[which], minlength=len(positions.key)).astype(np.int64)
