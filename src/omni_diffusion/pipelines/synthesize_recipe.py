"""The recipe of `omni-diffusion synthesize`."""

from __future__ import annotations

from pydantic import Field

from omni_diffusion.pipelines.run_recipe import RunRecipe
from omni_diffusion.pipelines.sources import SourceRecipe
from omni_diffusion.sdvi.produce import SynthesisRecipe


class SynthesizeRecipe(SynthesisRecipe):
    """Which written records become spoken ones, and how."""

    source: SourceRecipe
    output: str
    #: Folder or URL of the media corpus.
    cache: str | None = None
    #: Folder or URL where sounds and transcripts are kept by content, for all jobs and runs.
    batch: int = Field(default=64, ge=1)
    #: Records that are spoken together; also what `edge` can ask for at a time.
    run: RunRecipe = RunRecipe(reject_share=0.9)
    #: Rules drop by design, so many rejects are no fault.

    def content(self) -> SynthesizeRecipe:
        """Only what decides the bytes: where and how it runs does not."""
        fields = SynthesizeRecipe.model_fields
        defaults = {name: fields[name].default for name in ("cache", "batch", "run")}
        engine = self.engine.model_copy(update=_defaults(self.engine, _HOW_IT_IS_ASKED))
        changes = {"output": ".", "engine": engine, **defaults}
        if self.recogniser is not None:
            where = _defaults(self.recogniser, ("download", "threads"))
            changes["recogniser"] = self.recogniser.model_copy(update=where)
        return self.model_copy(update=changes)


_HOW_IT_IS_ASKED = (
    *("concurrency", "attempts", "backoff_s", "longest_backoff_s", "timeout_s", "proxy"),
)


def _defaults(recipe: object, names: tuple[str, ...]) -> dict[str, object]:
    fields = getattr(type(recipe), "model_fields", {})
    return {name: fields[name].default for name in names if name in fields}
