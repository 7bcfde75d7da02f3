"""Gradient variance of the default masking against one independent ratio a sequence.

A tiny two-layer transformer learns to reverse a sequence for a while; then the same batch is masked
anew thousands of times by either estimator and the gradient of its loss is taken each time. What is
compared is the trace of the gradients' covariance. Both estimate the same gradient, and the figures
say how far their means lie apart in standard errors. Only the noise differs between draws.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

# This folder holds a module that is named as the library `tokenizers` is.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.results import tell  # noqa: E402
from omni_diffusion.training.masking import Supervised, mask  # noqa: E402
from omni_diffusion.training.noise import sample_keys, word  # noqa: E402
from omni_diffusion.training.recipe import MaskingRecipe  # noqa: E402
from omni_diffusion.training.steps import spread_times  # noqa: E402

SAMPLES, LENGTH, IDS, WIDTH = 8, 24, 16, 32
MASK = IDS
TRAINING_STEPS = 300
RESAMPLES = 2000

Fields = dict[str, Any]


class Tiny(nn.Module):
    """A bidirectional transformer over a prompt and its reversal."""

    def __init__(self) -> None:
        super().__init__()
        self.ids = nn.Embedding(IDS + 1, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(2 * LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, 0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, IDS)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.layers(self.ids(ids) + self.places)
        logits: Tensor = self.head(hidden[:, LENGTH:])
        return logits


def draw_mask(recipe: MaskingRecipe, draw: int) -> tuple[Tensor, Tensor]:
    """Masked positions and weights, [samples, length] each, of one draw."""
    zeros = np.zeros(SAMPLES, np.int64)
    done = mask(
        Supervised(
            owner=np.repeat(np.arange(SAMPLES), LENGTH),
            place=np.tile(np.arange(LENGTH), SAMPLES),
            tail=np.zeros(SAMPLES * LENGTH, np.bool_),
            key=sample_keys(draw, zeros.astype(np.uint64), np.arange(SAMPLES), zeros),
            time=spread_times(zeros, word("draw", draw)),
        ),
        recipe,
    )
    shape = (SAMPLES, LENGTH)
    return torch.from_numpy(done.masked.reshape(shape)), torch.from_numpy(
        done.weight.reshape(shape).astype(np.float32)
    )


def loss_of(model: nn.Module, answers: Tensor, masked: Tensor, weight: Tensor) -> Tensor:
    """Weighted cross-entropy over a fixed denominator, so that the estimator is unbiased."""
    shown = torch.where(masked, MASK, answers)
    logits = model(torch.cat([answers.flip(1), shown], dim=1))
    losses = functional.cross_entropy(logits.transpose(1, 2), answers, reduction="none")
    return (weight * losses).sum() / answers.numel()


def trained() -> Tiny:
    """A model in the middle of its training: neither blind nor done."""
    torch.manual_seed(0)
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(TRAINING_STEPS):
        answers = torch.randint(IDS, (SAMPLES, LENGTH))
        optimizer.zero_grad()
        loss_of(model, answers, *draw_mask(MaskingRecipe(), step)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model


class Spread(NamedTuple):
    """What the gradients of many draws come to: [draws], [parameters], [parameters]."""

    squares: NDArray[np.float64]
    mean: NDArray[np.float32]
    variance: NDArray[np.float32]


def spread(model: Tiny, recipe: MaskingRecipe, draws: int) -> Spread:
    """Gradients of one fixed batch under many draws; the mean of the squares is the trace."""
    answers = torch.randint(IDS, (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(1))
    parameters = list(model.parameters())
    found = np.empty((draws, sum(p.numel() for p in parameters)), np.float32)
    for draw in range(draws):
        loss = loss_of(model, answers, *draw_mask(recipe, 10**6 + draw))
        parts = torch.autograd.grad(loss, parameters)
        found[draw] = torch.cat([part.reshape(-1) for part in parts]).numpy()
    mean = found.mean(axis=0)
    found -= mean
    squares = np.einsum("ij,ij->i", found, found, dtype=np.float64)
    return Spread(squares, mean, np.einsum("ij,ij->j", found, found) / draws)


def compare(default: Spread, independent: Spread) -> Fields:
    """Ratio of the traces of the covariances, with a bootstrap interval of 95 %."""
    rng, n = np.random.default_rng(0), len(default.squares)
    low, high = np.quantile(
        [
            default.squares[rng.integers(0, n, n)].mean()
            / independent.squares[rng.integers(0, n, n)].mean()
            for _ in range(RESAMPLES)
        ],
        [0.025, 0.975],
    )
    difference = default.mean - independent.mean
    error = (default.variance + independent.variance) / n
    return {
        "ratio": round(float(default.squares.mean() / independent.squares.mean()), 3),
        "interval": [round(float(low), 3), round(float(high), 3)],
        # 1 where the means differ only by chance.
        "mean_difference": round(float((difference**2).sum() / error.sum()), 2),
    }


def benchmark(draws: int) -> Fields:
    """Both weightings; `grad_variance_ratio` is that of the default recipe."""
    torch.set_num_threads(1)
    model, found = trained(), {}
    for weighting in ("none", "inverse"):
        pair = [
            spread(model, MaskingRecipe.model_validate(values | {"weighting": weighting}), draws)
            for values in ({}, {"preset": "paper"})
        ]
        found[weighting] = compare(*pair)
    default = found["inverse" if MaskingRecipe().inverse else "none"]
    return {
        "grad_variance_ratio": default["ratio"],
        "grad_variance_interval": default["interval"],
        "grad_variance_by_weighting": found,
        "draws": draws,
    }


def main(
    draws: int = typer.Option(8000, help="Draws of each estimator."),
    short: bool = typer.Option(False, help="A small pass that only shows that everything runs."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    keep: bool = typer.Option(
        False, help="Write figures to benchmarks/results/train_masking.json."
    ),
) -> None:
    """Measure the variance that masking adds to gradients."""
    figures = benchmark(50 if short else draws)
    tell("train_masking", figures, keep=keep, as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
