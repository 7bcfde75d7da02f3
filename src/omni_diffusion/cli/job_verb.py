"""What the verbs of jobs do alike: run one, show how it goes, and print what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omni_diffusion.cli.job_progress import job_progress, planned
from omni_diffusion.cli.job_result import print_result
from omni_diffusion.cli.progress import progress

if TYPE_CHECKING:
    from omni_diffusion.pipelines.pool import Job
    from omni_diffusion.pipelines.synthesize_recipe import SynthesizeRecipe
    from omni_diffusion.pipelines.tokenize_recipe import TokenizeRecipe


def run_and_print(
    job: Job,
    recipe: TokenizeRecipe | SynthesizeRecipe,
    *,
    local: bool,
    retrying_rejects: bool,
    as_json: bool,
) -> None:
    """Claim a job's output for its recipe and do what is missing; see `engine.run_job`."""
    from omni_diffusion.pipelines.claim import claim_output
    from omni_diffusion.pipelines.engine import run_job

    digest = claim_output(recipe)
    with job_progress(job.name) as on_tick, progress("index", "shards") as on_index:
        manifest, run = run_job(
            job,
            recipe.run,
            digest,
            local=local,
            retrying_rejects=retrying_rejects,
            on_tick=on_tick,
            on_plan=planned(job.name),
            on_index=on_index,
        )
    print_result(recipe.output, manifest, run, as_json)
