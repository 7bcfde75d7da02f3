"""`omni-diffusion tokenize`: pictures, sounds and texts of a source become a token corpus."""

from __future__ import annotations

import typer

from omni_diffusion.cli import recipe_options
from omni_diffusion.cli.job_result import print_estimate
from omni_diffusion.cli.job_verb import run_and_print


def command(
    recipe: str = typer.Argument(help="A recipe, e.g. tokenize/demo.yaml."),
    overrides: list[str] = recipe_options.overrides("run.ray.address=auto"),
    local: bool = typer.Option(False, "--local", help="Work in this process, without Ray."),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Plan, try a few records, estimate time and size; write nothing."
    ),
    retry_rejects: bool = typer.Option(
        False, "--retry-rejects", help="Also try the rejected records of finished shards again."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Tokenize a source into a corpus of shards.

    Run the same command again after a crash, or after Ctrl-C: it does what is missing, and the
    corpus is the same, byte for byte, as if nothing had happened.
    """
    from omni_diffusion.pipelines.tokenize import estimate, job_of
    from omni_diffusion.pipelines.tokenize_recipe import TokenizeRecipe
    from omni_diffusion.recipe import load_recipe

    loaded = load_recipe(recipe, TokenizeRecipe, overrides or ())
    if dry_run:
        print_estimate(estimate(loaded), as_json)
        return
    run_and_print(
        job_of(loaded),
        loaded,
        local=local,
        retrying_rejects=retry_rejects,
        as_json=as_json,
    )
