"""`omni-diffusion synthesize`: written records to spoken ones, in a media corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omni_diffusion.corpus.media_record import encode_media
from omni_diffusion.pipelines.estimate import Estimate, estimate_job
from omni_diffusion.pipelines.sources import absolute_paths, open_source
from omni_diffusion.pipelines.sources.files import absolute
from omni_diffusion.pipelines.sources.partition import Source
from omni_diffusion.pipelines.synthesize_recipe import SynthesizeRecipe
from omni_diffusion.sdvi.engines import KokoroRecipe

if TYPE_CHECKING:
    from omni_diffusion.pipelines.synthesize_worker import SynthesizeWorker


@dataclass(frozen=True, slots=True)
class SynthesizeJob:
    """See `pool.Job`."""

    recipe: SynthesizeRecipe

    @property
    def name(self) -> str:
        """The verb."""
        return "synthesize"

    @property
    def output(self) -> str:
        """Folder or URL of the media corpus."""
        return self.recipe.output

    def source(self) -> Source:
        """The written records."""
        return open_source(self.recipe.source)

    def worker(self) -> SynthesizeWorker:
        """The engine and the recogniser, loaded."""
        from omni_diffusion.pipelines.synthesize_worker import SynthesizeWorker

        return SynthesizeWorker(self.recipe)


def job_of(recipe: SynthesizeRecipe) -> SynthesizeJob:
    """The job that a recipe describes, for processes that run in other folders than this one."""
    changes: dict[str, object] = {
        "source": absolute_paths(recipe.source),
        "output": absolute(recipe.output),
    }
    if recipe.cache:
        changes["cache"] = absolute(recipe.cache)
    if isinstance(recipe.engine, KokoroRecipe):
        paths = {name: absolute(getattr(recipe.engine, name)) for name in ("model", "voices")}
        changes["engine"] = recipe.engine.model_copy(update=paths)
    if recipe.recogniser and Path(recipe.recogniser.model).exists():
        model = {"model": absolute(recipe.recogniser.model)}
        changes["recogniser"] = recipe.recogniser.model_copy(update=model)
    return SynthesizeJob(recipe.model_copy(update=changes))


def estimate(recipe: SynthesizeRecipe) -> Estimate:
    """Plan a job and speak a few records, without writing anything.

    Raises:
        SourceError: the source is not there or of another form.
        WeightsError: a model cannot be loaded.
        RecipeError: a package is missing, or the recipe names voices that are not there.
    """
    from omni_diffusion.pipelines.synthesize_worker import SynthesizeWorker

    trial = SynthesizeWorker(recipe.model_copy(update={"batch": 4}), trial=True)
    return estimate_job(SynthesizeJob(recipe), trial, lambda made: len(encode_media(made)))
