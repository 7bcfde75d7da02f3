"""The demo's written records, out of installed packages: no file, no download."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.pipelines import demo_records
from omni_diffusion.pipelines.sources.partition import Partition
from omni_diffusion.pipelines.sources.planned import Part, PlannedSource
from omni_diffusion.pipelines.sources.recipe import DemoRecipe
from omni_diffusion.pipelines.sources.rows import row_key


class DemoSource(PlannedSource):
    """Questions about shapes, drawings to be drawn, drawings to be described."""

    def __init__(self, recipe: DemoRecipe) -> None:
        super().__init__(recipe.limit)
        self._recipe = recipe

    def parts(self) -> Iterator[Part]:
        """Ranges of pictures, each of one kind; no drawing is in two of them."""
        recipe = self._recipe
        drawn = recipe.drawings
        demo_records.check_counts(drawn + recipe.captions, recipe.questions, recipe.split)
        kinds = (
            ("questions", 0, recipe.questions),
            ("drawings", 0, drawn),
            ("captions", drawn, drawn + recipe.captions),
        )
        for kind, first, end in kinds:
            for start in range(first, end, recipe.records_per_shard):
                stop = min(start + recipe.records_per_shard, end)
                spec = {"kind": kind, "start": start, "stop": stop}
                rows = stop - start
                if kind == "questions":
                    numbers = range(start, stop)
                    rows = demo_records.question_count(numbers, recipe.split, recipe.questions_each)
                yield Part(f"{kind} {start}..{stop - 1}", spec, rows=rows)

    def outcomes(self, partition: Partition) -> Iterator[MediaRecord | Reject]:
        """The records of one range."""
        recipe, numbers = self._recipe, range(partition.spec["start"], partition.spec["stop"])
        kind = partition.spec["kind"]
        if kind == "questions":
            items = demo_records.questions(
                numbers, split=recipe.split, each=recipe.questions_each, conversations=True
            )
        else:
            items = demo_records.drawings(numbers, ["caption" if kind == "captions" else "t2i"])
        for row, item in enumerate(items):
            yield replace(item, key=row_key(recipe.source, partition.number, row))
