"""Batches of a plan for one rank, made ahead by a thread.

Reading is a slice of a memory map and a few `numpy.frombuffer`; a worker process would cost more to
talk to than it saves (notes of the corpus benchmark). One thread makes the next batches while the
model computes; another fetches shards of remote corpora, which the plan knows long before they are
needed.

Rank r of W takes rows r, r + W, r + 2 W ... of every step, and all ranks get equally many: where W
does not divide them, the last ones are empty.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_diffusion.corpus.sample import BY_NAME, Sample, decode_sample
from omni_diffusion.errors import CorpusError, OmniError
from omni_diffusion.tokenize.chat import Modality
from omni_diffusion.tokenize.spans import from_corpus
from omni_diffusion.training.batch import Batch, Fault, Loaded, build_batch
from omni_diffusion.training.opening import TrainingData
from omni_diffusion.training.recipe import MaskingRecipe
from omni_diffusion.training.shards import OpenShards, Wanted
from omni_diffusion.training.source import Place
from omni_diffusion.training.steps import StepPlan


class Loader:
    """The batches of one rank. A context manager: leaving it gives up files and threads.

    Args:
        data: the opened recipe.
        masking: how to hide tokens.
        rank: which part of each step this process trains on.
        world_size: parts of a step.

    Raises:
        OmniError: `masking` scales a task that no source has.
    """

    def __init__(
        self, data: TrainingData, masking: MaskingRecipe, *, rank: int = 0, world_size: int = 1
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}")
        if unknown := sorted(set(masking.task_scales) - set(data.tasks)):
            known = ", ".join(data.tasks)
            raise OmniError(f"masking.task_scales: no source has task {unknown[0]!r}, but {known}")
        self.data, self.masking = data, masking
        self.rank, self.world_size = rank, world_size
        self._shards = OpenShards([s.shards for s in data.sources], data.cache)
        self._window = -1

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up files and threads."""
        self._shards.close()

    def batch(self, step: int) -> Batch:
        """This rank's rows of a step; the steps -1, -2, ... are those of evaluation.

        Raises:
            CorpusError: a sample is damaged, and the recipe says to stop; names source, key, step.
        """
        if step >= 0:
            self._open_window(step)
            return self._build(self.data.plan.step(step))
        plan = self.data.evaluation[-1 - step]
        self._shards.want(
            sorted(set(zip(plan.source.tolist(), self._shard_numbers(plan), strict=True)))
        )
        self._window = -1
        return self._build(plan)

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """This rank's rows of the steps from `start` on, made ahead.

        Raises:
            CorpusError: as `batch` does, when the step is reached.
        """
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(
            self.data.recipe.prefetch_steps
        )
        left = threading.Event()

        def put(item: Batch | BaseException | None) -> bool:
            while not left.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        def make() -> None:
            step = start
            try:
                while (stop is None or step < stop) and put(self.batch(step)):
                    step += 1
                put(None)
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                put(error)

        thread = threading.Thread(target=make, daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            left.set()
            thread.join()

    def evaluation(self) -> Iterator[Batch]:
        """The fixed evaluation batches: the same rows and noise whenever they are asked for."""
        return map(self.batch, [plan.step for plan in self.data.evaluation])

    def _build(self, plan: StepPlan) -> Batch:
        count = -(-plan.rows // self.world_size)
        rows = [self.rank + i * self.world_size for i in range(count)]
        places = plan.of_rows(rows)
        loaded: dict[int, Loaded] = {}
        faults: list[Fault] = []
        for number, source in enumerate(self.data.sources):
            mine = places[plan.source[places] == number]
            found = source.places(plan.index[mine])
            for at, place in zip(mine.tolist(), found, strict=True):
                try:
                    loaded[at] = self._load(plan, at, number, place)
                except OmniError as error:
                    where = f"source {source.name!r}, sample {place.key!r}, step {plan.step}"
                    if self.data.recipe.damaged == "stop":
                        raise CorpusError(where, str(error)) from error
                    index = int(plan.index[at])
                    fault = Fault(step=plan.step, source=source.name, row=index, reason=str(error))
                    faults.append(fault)
        return build_batch(
            plan,
            places,
            rows,
            loaded,
            faults,
            row_length=self.data.recipe.row_length,
            vocabulary=self.data.template.vocabulary,
            masking=self.masking,
            prompt_dropout=self.data.recipe.prompt_dropout if plan.step >= 0 else 0.0,
        )

    def _load(self, plan: StepPlan, at: int, number: int, place: Place) -> Loaded:
        source = self.data.sources[number]
        reader = self._shards.reader((number, place.shard))
        payload = reader.payload(place.offset, place.size)
        sample = decode_sample(place.key, payload, reader.name, place.crc)
        table = from_corpus(sample.key, sample.spans)
        sequence = self.data.template.assemble(sample.key, table, _streams(sample))
        room = int(plan.length[at] - plan.pads[at])
        if len(sequence.ids) > room:
            reason = f"{len(sequence.ids)} ids, but its index row speaks of at most {room}"
            raise CorpusError(reader.name, f"member {place.key}: {reason}")
        task = source.lengths.tasks[source.lengths.task[plan.index[at]]]
        features = _features(sample, table)
        return Loaded(key=place.key, task=task, sequence=sequence, features=features)

    def _open_window(self, step: int) -> None:
        """Open the shards of a step's window; fetch those of the groups after it meanwhile."""
        plan = self.data.plan
        number = step // plan.steps_per_window
        if number == self._window:
            return
        window = plan.window(number)
        now: list[Wanted] = []
        later: list[Wanted] = []
        for i, order in enumerate(plan.mixture.orders):
            shards = self.data.sources[i].lengths.shards
            groups = order.groups_between(window.start[i], window.stop[i])
            epoch, group = groups[-1]
            following = divmod(epoch * order.groups + group + 1, order.groups)
            for wanted, some in ((now, groups), (later, [following])):
                for one in some:
                    wanted += [(i, int(shards[s])) for s in order.shards_of(*one)]
        self._shards.want(list(dict.fromkeys(now)), list(dict.fromkeys(later)))
        self._window = number

    def _shard_numbers(self, plan: StepPlan) -> list[int]:
        numbers = np.empty(len(plan), np.int64)
        for i, source in enumerate(self.data.sources):
            mine = plan.source == i
            numbers[mine] = source.lengths.shards[source.shards_of(plan.index[mine])]
        return [int(number) for number in numbers]


def _streams(sample: Sample) -> dict[int, NDArray[Any]]:
    """Streams by modality, without features, of which only the number enters the sequence."""
    return {
        BY_NAME[name].code: stream
        for name, stream in sample.streams.items()
        if stream.dtype.kind != "f"
    }


def _features(sample: Sample, table: NDArray[np.int32]) -> Sequence[NDArray[np.float16]]:
    """Frames of each continuous sound, in the order of the conversation."""
    if "features" not in sample.streams:
        return ()
    rows = table[table[:, 2] == Modality.FEATURES]
    stream = sample.streams["features"]
    return [stream[start : start + length] for start, length in rows[:, 3:].tolist()]
