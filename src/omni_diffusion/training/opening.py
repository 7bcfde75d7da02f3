"""From a recipe to opened corpora, a plan, and the evaluation stream."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from omni_diffusion.corpus.cache import ShardCache
from omni_diffusion.corpus.sidecar import check_fingerprints
from omni_diffusion.recipe import load_recipe
from omni_diffusion.tokenize.chat import ChatTemplate
from omni_diffusion.tokenize.text import TextTokenizer
from omni_diffusion.training.lengths import LengthRule
from omni_diffusion.training.noise import sample_keys, word
from omni_diffusion.training.packing import pack
from omni_diffusion.training.plan import Plan, PlanError
from omni_diffusion.training.recipe import DataRecipe, MaskingRecipe, PlanRecipe
from omni_diffusion.training.source import Source
from omni_diffusion.training.steps import Placed, StepPlan

EVALUATION_EPOCH: Final = -1
EVALUATION_SEED: Final = 0
"""Not the run's own: runs of different seeds can be compared."""

_MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """What a data recipe stands for.

    Attributes:
        recipe: as given.
        template: the chat layout of the text tokenizer.
        sources: opened corpora: those of the plan, then those for evaluation only.
        plan: all steps of training.
        evaluation: the fixed steps of evaluation; they are numbered -1, -2, ...
        cache: of remote shards, if any.
    """

    recipe: DataRecipe
    template: ChatTemplate
    sources: list[Source]
    plan: Plan
    evaluation: list[StepPlan]
    cache: ShardCache | None

    @property
    def tasks(self) -> list[str]:
        """Names of all tasks, sorted."""
        return sorted({task for source in self.sources for task in source.lengths.tasks})


def load_data(
    path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> tuple[TrainingData, MaskingRecipe]:
    """Read a training recipe and open what it speaks of.

    Raises:
        RecipeError: the recipe is not readable or not valid.
        OmniError: as `open_data` does.
    """
    recipe = load_recipe(path, PlanRecipe, overrides)
    return open_data(recipe.data), recipe.masking


def open_data(recipe: DataRecipe) -> TrainingData:
    """Open the corpora of a recipe and make the plan.

    Raises:
        CorpusError: a corpus is not finished or damaged.
        FingerprintError: corpora that were made with different tokenizers, or with another text
            tokenizer than the recipe's.
        PlanError: an empty source, samples longer than a row, or rows too short for their tail.
        OmniError: weights that sum to nothing.
    """
    if (longest := recipe.row_length - recipe.tail_pads) < 1:
        raise PlanError(f"rows of {recipe.row_length} are too short for {recipe.tail_pads} pads")
    tokenizer = TextTokenizer.from_pretrained(recipe.tokenizer)
    template = ChatTemplate(tokenizer)
    rule, evaluation = LengthRule.of(template), recipe.evaluation
    cache = None
    if recipe.cache:
        cache = ShardCache(recipe.cache.folder, recipe.cache.limit_mb * _MEGABYTE)
    trained = [
        Source(
            name,
            entry.corpus,
            rule,
            longest=longest,
            held_out=evaluation.held_out,
            samples=evaluation.samples,
            cache=cache,
        )
        for name, entry in recipe.sources.items()
        if entry.weight > 0
    ]
    further = [
        Source(
            name, root, rule, longest=longest, held_out=1, samples=evaluation.samples, cache=cache
        )
        for name, root in evaluation.corpora.items()
    ]
    sources = [*trained, *further]
    _check_fingerprints(sources, tokenizer.fingerprint, recipe.tokenizer)
    plan = Plan(recipe, trained)
    steps = evaluation_steps(plan, sources)
    return TrainingData(
        recipe=recipe,
        template=template,
        sources=sources,
        plan=plan,
        evaluation=steps,
        cache=cache,
    )


def evaluation_steps(plan: Plan, sources: list[Source]) -> list[StepPlan]:
    """The held-out samples of all sources, packed once, with noise that never changes."""
    recipe = plan.recipe
    counts = [len(s.lengths.held_out) for s in sources]
    source = np.repeat(np.arange(len(sources)), counts)
    index = np.concatenate([s.lengths.held_out for s in sources])
    ids = np.concatenate([s.lengths.held_out_length for s in sources]).astype(np.int64)
    epoch = np.full(len(index), EVALUATION_EPOCH)
    words = np.array([s.word for s in sources], np.uint64)
    key = sample_keys(EVALUATION_SEED, words[source], index, epoch)
    pads = plan.tail_pads(key)
    row, rows = pack(ids + pads, recipe.row_length, 0)
    placed = Placed(
        source=source, index=index, epoch=epoch, row=row, length=ids + pads, pads=pads, key=key
    ).take(np.argsort(row, kind="stable"))
    steps: list[StepPlan] = []
    for first in range(0, rows, recipe.rows_per_step):
        count = min(recipe.rows_per_step, rows - first)
        part = np.flatnonzero((placed.row >= first) & (placed.row < first + count))
        number = -1 - len(steps)
        shift = word("evaluation", number)
        step = StepPlan.of(placed, part, step=number, rows=count, shift=shift)
        steps.append(replace(step, row=step.row - first))
    return steps


def _check_fingerprints(sources: list[Source], text: str, tokenizer: str) -> None:
    """Refuse what was made with different tokenizers.

    A corpus without pictures names no picture tokenizer and goes with any.
    """
    seen: dict[str, tuple[str, str]] = {"text": (text, f"tokenizer {tokenizer!r}")}
    for source in sources:
        for name, value in source.manifest.fingerprints.items():
            theirs, where = seen.setdefault(name, (value, source.storage.root))
            check_fingerprints({name: theirs}, {name: value}, where, source.storage.root)
