"""Rates, decay, clipping and averages are what the recipe says."""

import math

import pytest
import torch
from torch import nn

from omni_diffusion.errors import TrainingError
from omni_diffusion.training.model_recipe import OptimRecipe
from omni_diffusion.training.optim import (
    MovingAverage,
    build_optimiser,
    clip,
    learning_rate,
    trained,
)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_rises_and_falls_to_its_floor(schedule):
    recipe = OptimRecipe(steps=100, learning_rate=2.0, warmup=0.1, schedule=schedule, floor=0.25)
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    falling = rates[9:]
    assert falling == sorted(falling, reverse=True)
    assert learning_rate(recipe, 100) == pytest.approx(2.0 if schedule == "constant" else 0.5)
    middle = {"cosine": 1.25, "linear": 1.25, "constant": 2.0}[schedule]
    assert rates[55] == pytest.approx(middle)


def test_no_warmup_and_a_single_step():
    recipe = OptimRecipe(steps=1, warmup=0.0)
    assert learning_rate(recipe, 0) == recipe.learning_rate


def test_matrices_decay_and_nothing_else():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    recipe = OptimRecipe(steps=1, learning_rate=0.1, weight_decay=0.5)
    optimiser = build_optimiser(trained(model), recipe)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if name == "0.weight" else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name])


def test_a_step_is_adams():
    """Against the formulas of the paper, with the betas of the recipe."""
    parameter = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    recipe = OptimRecipe(steps=3, learning_rate=0.1)
    optimiser = build_optimiser({"p": parameter}, recipe)
    value, first, second = parameter.detach().clone(), torch.zeros(1, 2), torch.zeros(1, 2)
    for step in range(1, 4):
        parameter.grad = torch.tensor([[0.3, -0.1 * step]])
        first = 0.9 * first + 0.1 * parameter.grad
        second = 0.95 * second + 0.05 * parameter.grad**2
        value -= 0.1 * (first / (1 - 0.9**step)) / ((second / (1 - 0.95**step)).sqrt() + 1e-8)
        optimiser.step()
        torch.testing.assert_close(parameter.detach(), value)


@pytest.mark.parametrize(("largest", "after"), [(1.0, 1.0), (50.0, 13.0), (None, 13.0)])
def test_gradients_are_clipped_by_their_common_norm(largest, after):
    parameters = {name: nn.Parameter(torch.zeros(2)) for name in "ab"}
    parameters["a"].grad, parameters["b"].grad = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 12.0])
    assert clip(parameters, largest) == pytest.approx(13)
    norm = math.hypot(*(float(p.grad.norm()) for p in parameters.values()))
    assert norm == pytest.approx(after, rel=1e-5)


def test_the_moving_average_is_one():
    parameter = nn.Parameter(torch.tensor([1.0]))
    average = MovingAverage({"p": parameter}, 0.9)
    expected = 1.0
    for value in (2.0, 5.0, -1.0):
        parameter.data.fill_(value)
        average.update()
        expected = 0.9 * expected + 0.1 * value
    assert average.values["p"].item() == pytest.approx(expected)


def test_a_model_that_does_not_learn_is_refused():
    with pytest.raises(TrainingError, match="no parameter"):
        trained(nn.Linear(1, 1).requires_grad_(False))
