"""What a recipe will do, before anything is spent: `omni-diffusion plan`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_diffusion.training.opening import TrainingData
from omni_diffusion.training.steps import Placed

_WINDOWS = 8
"""Windows that are packed to say how full rows are; the rest follows from sums."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceReport:
    """One source of the mixture over the steps that were asked about.

    Attributes:
        name: in the recipe.
        corpus: folder or URL.
        rows: samples of the corpus.
        used: those that training uses.
        too_long: those that do not fit into a row.
        unsupervised: those without anything to predict.
        held_out: those that are kept for evaluation.
        configured: its weight as a part of all weights.
        planned: its part of the supervised tokens.
        samples: samples drawn from it.
        ids: their ids, template included, tail pads not.
        supervised: their supervised tokens.
        epochs: passes over it.
    """

    name: str
    corpus: str
    rows: int
    used: int
    too_long: int
    unsupervised: int
    held_out: int
    configured: float
    planned: float
    samples: int
    ids: int
    supervised: int
    epochs: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskReport:
    """One task in the windows that were packed: its parts of samples and of ids."""

    name: str
    samples: float
    ids: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanReport:
    """A plan in figures.

    Attributes:
        digest: of the plan.
        steps: that the figures are for, rounded up to whole windows.
        rows_per_step: rows of a step.
        steps_with_more_rows: of the packed steps, those that needed more rows.
        row_length: positions of a row.
        packed_steps: steps that were packed to measure the next three.
        fill: part of all positions that samples and their tail pads take, at most (see `lengths`).
        tail_pads: part of all positions that tail pads take.
        samples_per_step: on average.
        ids_per_step: on average, tail pads not counted.
        supervised_per_step: on average, over all steps.
        evaluation_samples: samples of the evaluation stream.
        evaluation_steps: its batches.
        sources: one entry a source.
        tasks: one entry a task.
    """

    digest: str
    steps: int
    rows_per_step: int
    steps_with_more_rows: int
    row_length: int
    packed_steps: int
    fill: float
    tail_pads: float
    samples_per_step: float
    ids_per_step: float
    supervised_per_step: float
    evaluation_samples: int
    evaluation_steps: int
    sources: list[SourceReport]
    tasks: list[TaskReport]


def report(data: TrainingData, steps: int) -> PlanReport:
    """Figures of the first `steps` steps.

    A few windows, evenly spread over the steps, are packed; everything else follows from sums.
    """
    plan = data.plan
    windows = -(-steps // plan.steps_per_window)
    chosen = sorted({windows * i // _WINDOWS for i in range(_WINDOWS)})
    packed = [plan.window(number) for number in chosen]
    rows = np.concatenate([window.rows for window in packed])
    ids = sum(int((w.samples.length - w.samples.pads).sum()) for w in packed)
    pads = sum(int(w.samples.pads.sum()) for w in packed)
    room = int(rows.sum()) * data.recipe.row_length
    sources = _sources(data, windows)
    whole = windows * plan.steps_per_window
    return PlanReport(
        digest=plan.digest,
        steps=whole,
        rows_per_step=data.recipe.rows_per_step,
        steps_with_more_rows=int((rows > data.recipe.rows_per_step).sum()),
        row_length=data.recipe.row_length,
        packed_steps=len(rows),
        fill=(ids + pads) / room,
        tail_pads=pads / room,
        samples_per_step=sum(len(window.samples) for window in packed) / len(rows),
        ids_per_step=ids / len(rows),
        supervised_per_step=sum(source.supervised for source in sources) / whole,
        evaluation_samples=sum(len(step) for step in data.evaluation),
        evaluation_steps=len(data.evaluation),
        sources=sources,
        tasks=_tasks(data, [window.samples for window in packed]),
    )


def _sources(data: TrainingData, windows: int) -> list[SourceReport]:
    plan = data.plan
    ends = plan.samples_before(windows * plan.steps_per_window)
    given = [o.before(at) for o, at in zip(plan.mixture.orders, ends, strict=True)]
    weights = [data.recipe.sources[source.name].weight for source in plan.sources]
    supervised = sum(tokens for _, _, tokens in given)
    found = []
    for source, order, weight, (samples, ids, tokens) in zip(
        plan.sources, plan.mixture.orders, weights, given, strict=True
    ):
        lengths = source.lengths
        unused = lengths.too_long + lengths.unsupervised
        found.append(
            SourceReport(
                name=source.name,
                corpus=source.storage.root,
                rows=lengths.rows,
                used=order.samples,
                too_long=lengths.too_long,
                unsupervised=lengths.unsupervised,
                held_out=lengths.rows - order.samples - unused,
                configured=weight / sum(weights),
                planned=tokens / supervised,
                samples=samples,
                ids=ids,
                supervised=tokens,
                epochs=samples / order.samples,
            )
        )
    return found


def _tasks(data: TrainingData, parts: list[Placed]) -> list[TaskReport]:
    """Shares of the tasks, largest first."""
    samples: dict[str, int] = {}
    ids: dict[str, int] = {}
    for number, source in enumerate(data.plan.sources):
        lengths = source.lengths
        for part in parts:
            mine = part.source == number
            task: NDArray[Any] = lengths.task[part.index[mine]]
            length = (part.length - part.pads)[mine]
            count = np.bincount(task, minlength=len(lengths.tasks))
            total = np.bincount(task, length, minlength=len(lengths.tasks))
            for at, name in enumerate(lengths.tasks):
                samples[name] = samples.get(name, 0) + int(count[at])
                ids[name] = ids.get(name, 0) + int(total[at])
    all_samples, all_ids = max(sum(samples.values()), 1), max(sum(ids.values()), 1)
    found = [
        TaskReport(name=name, samples=samples[name] / all_samples, ids=ids[name] / all_ids)
        for name in samples
        if samples[name]
    ]
    return sorted(found, key=lambda task: -task.ids)
