"""`omni-diffusion run`: a chain of jobs."""

from __future__ import annotations

import typer

from omni_diffusion.cli import recipe_options


def command(
    chain: str = typer.Argument(help="A chain of steps, e.g. pipelines/demo.yaml."),
    overrides: list[str] = recipe_options.overrides(
        r"overrides=\[run.ray.address=auto] for all its jobs", of="chain"
    ),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Let each job say what it would do; write nothing."
    ),
) -> None:
    """Run the steps of a chain one after another; stop at the first that fails.

    Every step goes on where it was left, so the same command takes up a broken chain again.
    """
    from omni_diffusion.pipelines.chain import ChainRecipe, run_chain
    from omni_diffusion.recipe import load_recipe

    steps = load_recipe(chain, ChainRecipe, overrides or ())
    run_chain(steps, on_step=lambda line: typer.echo(line, err=True), dry_run=dry_run)
