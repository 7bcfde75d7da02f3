"""`--launcher ray`: the ranks are Ray workers. The only file of the trainer that knows of Ray.

Ray Train starts the workers, sets up their process group, and starts them anew when one dies; each
time they go on from the newest checkpoint. So the run's folder and the corpora must be reachable
from every node. Everything else is `train.py`, as under torchrun.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omni_diffusion.errors import TrainingError
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
        variables = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        ray.init(cluster.address, runtime_env={"env_vars": variables})
    run.mkdir(parents=True, exist_ok=True)
    root = run.absolute()
    resources = {"CPU": cluster.cpus_per_worker}
    if cluster.gpus_per_worker:
        resources["GPU"] = cluster.gpus_per_worker
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"recipe": recipe.model_dump_json(), "run": str(root)},
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
    metrics: dict[str, Any] = result.metrics or {}
    return Outcome(
        **{name: metrics[name] for name in ("step", "steps", "resumed", "model", "signal")}
    )


def _worker(config: dict[str, Any]) -> None:
    """What each worker does."""
    from dataclasses import asdict

    from ray import train as ray_train

    from omni_diffusion.training.display import Display
    from omni_diffusion.training.parallel import join_world
    from omni_diffusion.training.train import train

    recipe = TrainRecipe.model_validate_json(config["recipe"])
    with join_world(recipe.run.device) as world:
        outcome = train(recipe, Path(config["run"]), world, show=Display)
    ray_train.report(asdict(outcome))


def _reason(error: BaseException) -> str:
    """The last line of the innermost cause: what a worker said."""
    text = str(error).strip()
    return text.splitlines()[-1] if text else type(error).__name__
