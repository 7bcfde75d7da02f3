"""`omni-diffusion train`: from a recipe to a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from omni_diffusion.cli import recipe_options

if TYPE_CHECKING:
    from torch import nn

    from omni_diffusion.training.train import OnSample, Outcome
    from omni_diffusion.training.train_recipe import TrainRecipe


def command(
    recipe: Path = typer.Argument(help="A training recipe, e.g. training/demo.yaml."),
    overrides: list[str] = recipe_options.overrides("optim.steps=100"),
    out: Path = typer.Option(
        None,
        "-o",
        "--out",
        help="Folder of the run; else run.out, else runs/NAME of the recipe.",
    ),
    launcher: Literal["none", "ray"] = typer.Option(
        "none", help="ray: on the workers of run.ray. Under torchrun it stays none."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Train a model, or go on with a run.

    The same command after a crash, a kill or Ctrl-C goes on from the newest checkpoint and ends as
    if nothing had happened. On several GPUs: torchrun --nproc-per-node N -m omni_diffusion train
    RECIPE, or --launcher ray.
    """
    from omni_diffusion.recipe import load_recipe
    from omni_diffusion.training.train_recipe import TrainRecipe

    loaded = load_recipe(recipe, TrainRecipe, overrides or ())
    run = out or Path(loaded.run.out or f"runs/{recipe.stem}")
    if launcher == "ray":
        from omni_diffusion.training.ray_launcher import train_on_ray

        _print(train_on_ray(loaded, run), run, as_json)
        return
    from omni_diffusion.training.display import Display
    from omni_diffusion.training.parallel import join_world
    from omni_diffusion.training.train import train

    with join_world(loaded.run.device) as world:
        sample = _sampler(loaded, run, world.first) if loaded.run.samples_every else None
        outcome = train(loaded, run, world, show=Display, on_sample=sample)
        if world.first:
            _print(outcome, run, as_json)
    if outcome.model is None:
        raise typer.Exit(130)


def _sampler(recipe: TrainRecipe, run: Path, first: bool) -> OnSample:
    """Answers held-out questions into RUN/samples; what it needs is opened when it is needed."""
    writer: list[OnSample] = []

    def sample(step: int, model: nn.Module) -> None:
        if not writer:
            from omni_diffusion.generation.generation_recipe import GenerationRecipe
            from omni_diffusion.generation.training_samples import SampleWriter
            from omni_diffusion.training.opening import open_data

            corpora = {
                source.storage.root: [p.key for p in source.places(source.lengths.held_out)] or None
                for source in open_data(recipe.data).sources
            }
            settings = (run, corpora, recipe.data.tokenizer, GenerationRecipe.model_validate({}))
            padded = recipe.data.tail_pads > 0
            writer.append(SampleWriter(*settings, padded=padded, writes=first))
        writer[0](step, model)

    return sample


def _print(outcome: Outcome, run: Path, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        typer.echo(json.dumps({"run": str(run), **asdict(outcome)}, indent=2))
        return
    if outcome.model is None:
        typer.echo(
            f"{run}: stopped after step {outcome.step} of {outcome.steps}, which is saved; "
            "the same command goes on from there"
        )
        return
    if outcome.resumed == outcome.steps:
        typer.echo(f"{run}: all {outcome.steps} steps were done before")
    typer.echo(f"{outcome.model}: the model after {outcome.steps} steps")
