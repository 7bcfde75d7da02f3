"""What conformance tests share: comparing with recorded arrays, and weights made by recipe."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def assert_close(actual: Tensor, expected: np.ndarray, tolerance: float, name: str = "") -> None:
    """Same shape, and no element further off than `tolerance`.

    An array stored as float16 may differ by its rounding on top of that.
    """
    assert actual.shape == expected.shape, name
    rounding = 2.0**-11 if expected.dtype == np.float16 else 0.0
    wanted = expected.astype(np.float64)
    excess = np.abs(actual.double().numpy() - wanted) - rounding * np.abs(wanted)
    assert excess.max() <= tolerance, f"{name}: {excess.max():.2e} off"


def assert_same_codes(
    codes: Tensor, recorded: np.ndarray, margin: np.ndarray, needed: float
) -> None:
    """Codes are int32 and equal wherever the recorded margin says that rounding cannot decide."""
    assert codes.dtype == torch.int32
    assert codes.shape == recorded.shape
    settled = margin >= needed
    assert settled.mean() > 0.5, "hardly any code has a margin that allows a comparison"
    np.testing.assert_array_equal(codes.numpy()[settled], recorded[settled])


def keyed_randn(key: str, shape: Sequence[int], seed: int) -> Tensor:
    """The numbers that a recipe derives one tensor from, as the sets' READMEs define them."""
    generator = torch.Generator("cpu")
    generator.manual_seed((zlib.crc32(key.encode()) ^ seed) & 0xFFFFFFFF)
    return torch.randn(tuple(shape), generator=generator)


def assert_recipe_followed(
    weights: Mapping[str, Tensor], weight_checks: Mapping[str, Mapping[str, Any]]
) -> None:
    """Weights that were made by recipe have the recorded first and last values and the same sum."""
    for key, check in weight_checks.items():
        flat = weights[key].flatten()
        np.testing.assert_allclose(flat[:4], check["first4"], atol=1e-6, err_msg=key)
        np.testing.assert_allclose(flat[-2:], check["last2"], atol=1e-6, err_msg=key)
        allowed = 1e-3 + 1e-8 * flat.numel()
        found = float(flat.double().sum())
        assert abs(found - check["sum_float64"]) <= allowed, f"{key}: sum {found}"
