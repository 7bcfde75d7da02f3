"""`--launcher ray`: the ranks are Ray workers. The only file of the trainer that knows of Ray.

Ray Train starts the workers, sets up their process group, and starts them anew when one dies; each
time they go on from the newest checkpoint. So the run's folder and the corpora must be reachable
from every node. Everything else is `train.py`, as under torchrun.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from omni_diffusion.errors import OmniError, TrainingError
from omni_diffusion.training.train import Outcome
from omni_diffusion.training.train_recipe import TrainRecipe


def train_on_ray(recipe: TrainRecipe, run: Path) -> Outcome:
    """Train on the workers of `run.ray`; see `train.train`.

    Raises:
        TrainingError: it failed on the workers as often as the recipe allows; says why.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    cluster = recipe.run.ray
    ours = not ray.is_initialized()
    if ours:
        try:
            dashboard = None if cluster.address else False
            ray.init(address=cluster.address or "local", include_dashboard=dashboard)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = cluster.address or "this machine"
            raise TrainingError(f"run.ray.address: no Ray at {where}: {error}") from error
    run.mkdir(parents=True, exist_ok=True)
    root = run.absolute()
    resources = {"CPU": cluster.cpus_per_worker}
    if cluster.gpus_per_worker:
        resources["GPU"] = cluster.gpus_per_worker
    work: Any = _worker
    here = str(Path.cwd())
    trainer = TorchTrainer(
        work,
        train_loop_config={"recipe": recipe.model_dump_json(), "run": str(root), "cwd": here},
        torch_config=TorchConfig(
            backend="cpu:gloo,cuda:nccl" if cluster.gpus_per_worker else "gloo"
        ),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(root),
            failure_config=FailureConfig(max_failures=cluster.tries - 1),
        ),
    )
    try:
        result = trainer.fit()
    except Exception as error:
        raise TrainingError(f"{run}: training on Ray failed: {_reason(error)}") from error
    finally:
        if ours:
            ray.shutdown()
    told: Any = result
    return Outcome(**told.return_value)


def _worker(config: dict[str, Any]) -> dict[str, Any]:
    """What each worker does; that of rank 0 is asked how it ended."""
    from dataclasses import asdict

    from omni_diffusion.training.display import Display
    from omni_diffusion.training.parallel import join_world
    from omni_diffusion.training.train import train

    recipe = TrainRecipe.model_validate_json(config["recipe"])
    with suppress(OSError):  # a node of its own may not have it; then paths must be absolute
        os.chdir(config["cwd"])
    try:
        with join_world(recipe.run.device) as world:
            outcome = train(recipe, Path(config["run"]), world, show=Display)
    except OmniError as error:  # most of them cannot be sent to another process
        raise TrainingError(str(error)) from None
    return asdict(outcome)


def _reason(error: BaseException) -> str:
    """What a worker said, out of the traceback that Ray makes of it; else its last line."""
    text = str(error).strip()
    _, ours, said = text.rpartition(f"{TrainingError.__name__}: ")
    return said if ours else (text.splitlines() or [type(error).__name__])[-1]
