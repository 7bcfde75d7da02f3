"""`omni-diffusion tokenize`: any source to a token corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omni_diffusion.corpus.sample import encode_sample
from omni_diffusion.pipelines.estimate import Estimate, estimate_job
from omni_diffusion.pipelines.sources import absolute_paths, open_source
from omni_diffusion.pipelines.sources.files import absolute
from omni_diffusion.pipelines.sources.partition import Source
from omni_diffusion.pipelines.tokenize_recipe import TokenizeRecipe
from omni_diffusion.tokenize.weights import DEMO

if TYPE_CHECKING:
    from omni_diffusion.pipelines.tokenize_worker import TokenizeWorker


@dataclass(frozen=True, slots=True)
class TokenizeJob:
    """See `pool.Job`."""

    recipe: TokenizeRecipe

    @property
    def name(self) -> str:
        """The verb."""
        return "tokenize"

    @property
    def output(self) -> str:
        """Folder or URL of the corpus."""
        return self.recipe.output

    def source(self) -> Source:
        """The records."""
        return open_source(self.recipe.source)

    def worker(self) -> TokenizeWorker:
        """The tokenizers, loaded."""
        from omni_diffusion.pipelines.tokenize_worker import TokenizeWorker

        return TokenizeWorker(self.recipe)


def job_of(recipe: TokenizeRecipe) -> TokenizeJob:
    """The job that a recipe describes, for processes that run in other folders than this one."""
    places = {"source": absolute_paths(recipe.source), "output": absolute(recipe.output)}
    if recipe.cache:
        places["cache"] = absolute(recipe.cache)
    names = recipe.tokenizers.model_dump()
    # `demo` is never a folder, although the newcomer's path leaves one of that name.
    paths = {key: Path(name) for key, name in names.items() if name and name != DEMO}
    local = {key: absolute(names[key]) for key, path in paths.items() if path.exists()}
    tokenizers = recipe.tokenizers.model_copy(update=local)
    return TokenizeJob(recipe.model_copy(update={**places, "tokenizers": tokenizers}))


def estimate(recipe: TokenizeRecipe) -> Estimate:
    """Plan a job and tokenize a few records, without writing anything.

    Raises:
        SourceError: the source is not there or of another form.
        WeightsError: a tokenizer cannot be loaded.
    """
    trial = TokenizeJob(recipe.model_copy(update={"cache": None, "batch": 1})).worker()
    return estimate_job(TokenizeJob(recipe), trial, lambda sample: len(encode_sample(sample)))
