"""What each of two ranks does in `test_train_ranks`; a module of its own because it is spawned."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
import torch.distributed as dist

from omni_diffusion.errors import OmniError
from omni_diffusion.training.parallel import join_world
from omni_diffusion.training.train import train
from omni_diffusion.training.train_recipe import TrainRecipe
from training_runs import stop_here, train_to

RANKS = 2


def as_one_of_two(rank: int, folder: str, recipe: str, damaged: str) -> None:
    """Train in three folders: up to step 3, on from another's step 3, and into a damaged sample.

    In the first only rank 1 is asked to stop.
    """
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    store = dist.FileStore(f"{folder}/store", RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    root, wanted = Path(folder), TrainRecipe.model_validate_json(recipe)
    with join_world("cpu") as world:
        often = wanted.run.model_copy(update={"samples_every": 3})
        stopping = wanted.model_copy(update={"run": often})
        callback = stop_here if rank == 1 else lambda _step, _model: None
        outcome = train(stopping, root / "begun_on_two", world, on_sample=callback)
        assert (outcome.step, outcome.model) == (3, None)
        outcome = train_to(None, wanted, root / "ended_on_two", world)
        assert (outcome.step, outcome.resumed) == (wanted.optim.steps, 3)
        try:
            train_to(None, TrainRecipe.model_validate_json(damaged), root / "damaged", world)
            said = "nothing"
        except OmniError as error:
            said = str(error)
        (root / f"said-{rank}.json").write_text(json.dumps(said))
    dist.destroy_process_group()
