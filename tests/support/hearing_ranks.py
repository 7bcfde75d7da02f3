"""Sharded speech: rank 0 hears a sound and rank 1 none; spawned by `test_hearing_ranks`."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from dreams import tiny_dream, tiny_speech
from omni_diffusion.backbone.attention import Segments
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.training.forward import Inputs, batch_loss
from omni_diffusion.training.loss import Targets
from omni_diffusion.training.model_recipe import ModelRecipe, SizesRecipe
from omni_diffusion.training.optim import trained
from omni_diffusion.training.parallel import join_world, lay_out

RANKS = 2
_SIZES = SizesRecipe(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)


def hearing_model() -> Dream:
    """A model with a speech encoder, in double precision: the order of sums does not show."""
    return tiny_dream(speech=tiny_speech()).double().train()


def sample(*, heard: bool) -> Inputs:
    """Fourteen tokens, nine of them a sound or not."""
    generator = torch.Generator().manual_seed(3 + heard)
    positions = torch.tensor([11, 12])
    return Inputs(
        ids=torch.randint(48, (14,), generator=generator),
        segments=Segments([14]),
        targets=Targets(positions, positions - 1, torch.tensor([4, 5])),
        weights=torch.ones(2),
        places=positions,
        features=[torch.randn(5, 560, generator=generator)] if heard else [],
        inserted=torch.arange(1, 10) if heard else torch.empty(0, dtype=torch.int64),
    )


def as_one_of_two(rank: int, folder: str) -> None:
    """Add up the gradients of two passes; rank 0 writes them whole."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    store = dist.FileStore(f"{folder}/store", RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    with join_world("cpu") as world:
        # The published encoder is the model's own; the recipe here only says how to shard.
        recipe = ModelRecipe(sizes=_SIZES, dtype="float64")
        model = hearing_model()
        lay_out(model, recipe, world)
        for _ in range(2):
            batch_loss(model, sample(heard=rank == 0), 4.0).loss.backward()
        whole = {name: p.grad.full_tensor() for name, p in trained(model).items()}
        if world.first:
            save_file(whole, f"{folder}/gradients.safetensors")
    dist.destroy_process_group()
