"""One process, or several that share a model by FSDP2.

Without a launcher there is one process and no `torch.distributed`. `torchrun` and the Ray launcher
set the usual environment (RANK, WORLD_SIZE ...); then every rank holds a part of each parameter,
gathers a layer when it is needed, and gets the sum of all ranks' gradients for its part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from omni_diffusion.backbone.dream import Dream
from omni_diffusion.errors import TrainingError
from omni_diffusion.training.model_recipe import ModelRecipe

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class World:
    """Who this process is among all that train.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        device: of its tensors.
        distributed: whether there is a process group, be it of one.
        saving: group of its own for checkpoints, which are written beside training.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    distributed: bool = False
    saving: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def sums(self, *values: float) -> list[float]:
        """Sum of each number over all ranks; also a place where they meet."""
        if not self.distributed:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(found)
        return [float(value) for value in found]

    def gathered(self, value: Any) -> list[Any]:
        """What every rank has to say, small things only, by rank."""
        if not self.distributed:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found


@contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """Take the place that a launcher gave this process, or be alone.

    Args:
        device: `cpu`, `cuda`, or `auto`: a GPU where there is one.

    Raises:
        TrainingError: a GPU is asked for and there is none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("run.device is cuda, but PyTorch sees no GPU here")
    at = torch.device(device)
    if at.type == "cuda":
        at = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(at)
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        yield World(device=at)
        return
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("cpu:gloo,cuda:nccl" if at.type == "cuda" else "gloo")
    try:
        yield World(
            rank=dist.get_rank(),
            size=dist.get_world_size(),
            device=at,
            distributed=True,
            saving=dist.new_group(backend="gloo"),
        )
    finally:
        if ours:
            dist.destroy_process_group()


def lay_out(model: Dream, recipe: ModelRecipe, world: World) -> None:
    """Checkpointing, compilation and sharding of a model, layer by layer, in place."""
    for layer in model.model.layers:
        assert isinstance(layer, nn.Module)
        if recipe.activation_checkpointing:
            layer.recompute = True  # type: ignore[assignment]
        if recipe.compile:
            layer.compile()
    if not world.distributed:
        return
    dtype = DTYPES[recipe.dtype]
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=exact)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    # The output layer is used after the model's forward, so it has to stay.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Losses are over the denominator of all ranks: their gradients are summed.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def computing(recipe: ModelRecipe, world: World) -> AbstractContextManager[Any]:
    """Where one process computes in bfloat16; FSDP converts parameters by itself."""
    if world.distributed or recipe.dtype != "bfloat16":
        return nullcontext()
    return torch.autocast(world.device.type, torch.bfloat16)
