"""AdamW, its schedule, clipping, and a moving average of what is trained.

The schedule is a function of the step, so nothing of it needs saving.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from omni_diffusion.errors import TrainingError
from omni_diffusion.training.model_recipe import OptimRecipe


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that learn, by name.

    Raises:
        TrainingError: there are none.
    """
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise TrainingError("no parameter of the model learns")
    return found


def build_optimiser(parameters: dict[str, nn.Parameter], recipe: OptimRecipe) -> torch.optim.AdamW:
    """AdamW over named parameters; only matrices decay. Its moments exist from the start."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters.values() if p.dim() > 1]},
        {"params": [p for p in parameters.values() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    set_moments(optimiser, 0)
    return optimiser


def set_moments(optimiser: torch.optim.AdamW, step: int) -> None:
    """Give every parameter its moments, zero where it has none, and the number of steps."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            state = optimiser.state[parameter]
            state["step"] = torch.tensor(float(step), device=parameter.device)
            for name in MOMENTS:
                if name not in state:
                    state[name] = torch.zeros_like(parameter)


MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter."""


def learning_rate(recipe: OptimRecipe, step: int) -> float:
    """Rate of a step, counted from 0: a linear rise, then the schedule down to its floor."""
    rising = math.ceil(recipe.warmup * recipe.steps)
    if step < rising:
        return recipe.learning_rate * (step + 1) / rising
    done = (step - rising) / max(recipe.steps - rising, 1)
    part = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
    }[recipe.schedule]
    floor = 1.0 if recipe.schedule == "constant" else recipe.floor
    return recipe.learning_rate * (floor + (1 - floor) * part)


def clip(parameters: dict[str, nn.Parameter], largest: float | None) -> float:
    """Scale gradients so that their norm is at most `largest`; gives back the norm before."""
    limit = math.inf if largest is None else largest
    norm: Tensor = nn.utils.clip_grad_norm_(parameters.values(), limit)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


class MovingAverage:
    """Exponential moving average of parameters, sharded as they are.

    Attributes:
        values: of each parameter, by name.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = parameters, decay
        self.values = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Count the present parameters in."""
        new = [p.detach() for p in self._parameters.values()]
        torch._foreach_lerp_(list(self.values.values()), new, 1 - self._decay)
