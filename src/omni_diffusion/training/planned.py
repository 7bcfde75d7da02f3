"""What is trained when, as a table: the samples of some steps, where the plan puts them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from omni_diffusion.training.opening import TrainingData
from omni_diffusion.training.steps import StepPlan

SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.int32()) for name in ("step", "row", "rows", "row_length")),
        *(pa.field(name, pa.string()) for name in ("part", "corpus", "key", "task")),
        *(pa.field(name, pa.int32()) for name in ("epoch", "length", "tail_pads")),
        pa.field("supervised_len", pa.int32()),
        pa.field("time", pa.float64()),
    ]
)


def planned_table(
    data: TrainingData,
    first: int,
    last: int,
    on_step: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """The samples of the steps `first` to `last - 1`, by step and row.

    Reads the plan and the keys of the indexes; no tar is opened. See `SCHEMA` for the columns:
    `part` is the name of a corpus in the recipe, `length` the ids that are set aside for a sample
    without its `tail_pads`, `time` its place in the mask schedule.

    Args:
        data: opened corpora and their plan.
        first: step to begin with, from 0.
        last: step to end before.
        on_step: called with (steps done, steps in all), for a progress bar.

    Raises:
        CorpusError: an index is damaged.
    """
    tables = [SCHEMA.empty_table()]
    for step in range(first, last):
        tables.append(_step_table(data, data.plan.step(step)))
        if on_step:
            on_step(step + 1 - first, last - first)
    whole = pa.concat_tables(tables).combine_chunks()
    keys = np.full(len(whole), None, object)
    part, row = (whole[name].to_numpy() for name in ("part", "key"))
    for source in data.plan.sources:
        mine = np.flatnonzero(part == source.name)
        # In the order of the index, so that each of its row groups is read once.
        mine = mine[np.argsort(row[mine].astype(np.int64), kind="stable")]
        places = source.places(row[mine].astype(np.int64))
        keys[mine] = [place.key for place in places]
    at = whole.schema.get_field_index("key")
    return whole.set_column(at, SCHEMA.field("key"), pa.array(keys, pa.string()))


def _step_table(data: TrainingData, step: StepPlan) -> pa.Table:
    """One step; the rows of samples in their corpora stand for their keys."""
    sources, n = data.plan.sources, len(step)
    task, supervised = np.empty(n, object), np.zeros(n, np.int64)
    for number, source in enumerate(sources):
        mine = step.source == number
        lengths, index = source.lengths, step.index[mine]
        task[mine] = [lengths.tasks[i] for i in lengths.task[index].tolist()]
        supervised[mine] = lengths.supervised[index]
    columns = {
        "step": np.full(n, step.step),
        "row": step.row,
        "rows": np.full(n, step.rows),
        "row_length": np.full(n, data.recipe.row_length),
        "part": [sources[i].name for i in step.source.tolist()],
        "corpus": [sources[i].storage.root for i in step.source.tolist()],
        "key": step.index.astype(str),
        "task": task,
        "epoch": step.epoch,
        "length": step.length - step.pads,
        "tail_pads": step.pads,
        "supervised_len": supervised,
        "time": step.time,
    }
    return pa.table([pa.array(columns[f.name], f.type) for f in SCHEMA], schema=SCHEMA)
