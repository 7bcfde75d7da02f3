"""Rows of a step as arrays: samples side by side, then the noise.

A row holds whole samples, each with positions of its own from 0 on, each followed by its tail pads;
what is left at the end of a row is padding that no sample sees (`segments` 0). `inputs` is what the
model reads: hidden tokens, and with prompt dropout whole prompts, are the mask id in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from omni_diffusion.tokenize.chat import ChatSequence
from omni_diffusion.tokenize.vocabulary import Vocabulary
from omni_diffusion.training.masking import Supervised, mask
from omni_diffusion.training.noise import Purpose, Words, draws, uniforms
from omni_diffusion.training.recipe import MaskingRecipe
from omni_diffusion.training.steps import StepPlan, Whole


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A sample that was read.

    Attributes:
        key: of the sample.
        task: its task.
        sequence: its ids, without tail pads.
        features: continuous speech, float16 [frames, columns], one for each entry of
            `sequence.audio_indices`.
    """

    key: str
    task: str
    sequence: ChatSequence
    features: Sequence[NDArray[np.float16]] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A sample that could not be read; its place in the row is padding."""

    step: int
    source: str
    row: int
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Table of the n samples of a batch, in the order of their places.

    Attributes:
        keys: names, [n].
        tasks: tasks, [n].
        source: int64 [n], position among the loader's sources.
        index: int64 [n], row of the corpus.
        epoch: int64 [n], which pass over the source; -1 in evaluation.
        row: int64 [n], row of the batch.
        start: int64 [n], first position in that row.
        length: int64 [n], ids, tail pads included.
        ratio: float64 [n], mask ratio.
        prompt_dropped: bool [n].
    """

    keys: Sequence[str]
    tasks: Sequence[str]
    source: Whole
    index: Whole
    epoch: Whole
    row: Whole
    start: Whole
    length: Whole
    ratio: NDArray[np.float64]
    prompt_dropped: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """R rows of L positions, for one rank and step.

    Attributes:
        step: of the plan.
        ids: int32 [R, L], what is true; end-of-text where there is padding.
        inputs: int32 [R, L], what the model reads.
        supervised: bool [R, L], positions that can be hidden.
        masked: bool [R, L], positions that are hidden: where the loss is.
        loss_weight: float32 [R, L], weight of each position's loss; 0 where it is not hidden.
        tail: bool [R, L], tail pads.
        positions: int32 [R, L], from 0 in each sample and in padding.
        segments: int32 [R, L], 1, 2, ... for the samples of a row, 0 for padding.
        modality: uint8 [R, L], `TokenKind` of each id.
        samples: table of the samples.
        feature_starts: int64 [a], for each continuous sound the position (of R L) of the first of
            its `frames + 4` embeddings.
        features: float16 [frames, columns], for each of them.
        faults: samples that could not be read.
    """

    step: int
    ids: NDArray[np.int32]
    inputs: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    masked: NDArray[np.bool_]
    loss_weight: NDArray[np.float32]
    tail: NDArray[np.bool_]
    positions: NDArray[np.int32]
    segments: NDArray[np.int32]
    modality: NDArray[np.uint8]
    samples: Samples
    feature_starts: Whole
    features: Sequence[NDArray[np.float16]]
    faults: Sequence[Fault]

    @property
    def fill(self) -> float:
        """Part of the positions that samples and their tail pads take."""
        return float(np.count_nonzero(self.segments)) / max(self.segments.size, 1)

    def parts(self, rows: int) -> Iterator[Batch]:
        """The batch cut into batches of at most so many rows; the first one has all faults."""
        length, samples = self.ids.shape[1], self.samples
        for first in range(0, len(self.ids), rows):
            stop = min(first + rows, len(self.ids))
            mine = slice(*np.searchsorted(samples.row, [first, stop]).tolist())
            columns = {field.name: getattr(samples, field.name)[mine] for field in fields(Samples)}
            bounds = [first * length, stop * length]
            heard = slice(*np.searchsorted(self.feature_starts, bounds).tolist())
            yield replace(
                self,
                **{name: getattr(self, name)[first:stop] for name in _BY_ROW},
                samples=replace(samples, **columns | {"row": columns["row"] - first}),
                feature_starts=self.feature_starts[heard] - first * length,
                features=self.features[heard],
                faults=self.faults if first == 0 else (),
            )

    @property
    def cu_seqlens(self) -> NDArray[np.int32]:
        """Bounds of all segments of the flattened rows, from 0 to R L; padding is one, too."""
        flat = self.segments.reshape(-1)
        starts = np.flatnonzero(np.diff(flat, prepend=-1))
        at_row = np.arange(0, flat.size, max(self.segments.shape[1], 1))
        return np.append(np.union1d(starts, at_row), flat.size).astype(np.int32)


_BY_ROW: Final = (
    *("ids", "inputs", "supervised", "masked", "loss_weight", "tail"),
    *("positions", "segments", "modality"),
)


def build_batch(
    plan: StepPlan,
    places: Whole,
    rows: Sequence[int],
    loaded: Mapping[int, Loaded],
    faults: Sequence[Fault],
    *,
    row_length: int,
    vocabulary: Vocabulary,
    masking: MaskingRecipe,
    prompt_dropout: float,
) -> Batch:
    """Lay samples into rows and hide some of their tokens.

    Args:
        plan: of the step.
        places: positions in the plan of the samples that belong to these rows, ascending.
        rows: which rows of the step, ascending; numbers that the plan does not know become empty
            rows.
        loaded: by position in the plan, the samples that could be read.
        faults: those that could not.
        row_length: L.
        vocabulary: the id layout.
        masking: how to hide tokens.
        prompt_dropout: part of the samples whose prompt is hidden.
    """
    kept = np.array([place for place in places.tolist() if place in loaded], np.int64)
    samples = [loaded[place] for place in kept.tolist()]
    row = np.searchsorted(np.array(rows), plan.row[kept])
    laid = _lay_out(samples, row, plan.pads[kept], (len(rows), row_length), vocabulary)
    positions = laid.supervised_positions(plan.key[kept], plan.time[kept])
    done = mask(positions, masking)
    scale = np.array([masking.task_scales.get(sample.task, 1.0) for sample in samples])
    masked, weight = np.zeros(laid.ids.shape, np.bool_), np.zeros(laid.ids.shape, np.float32)
    masked[laid.supervised] = done.masked
    weight[laid.supervised] = done.weight * scale[positions.owner]
    dropped = uniforms(draws(plan.key[kept], Purpose.PROMPT_DROPOUT)) < prompt_dropout
    hidden = masked
    if dropped.any():
        hidden = masked | ((laid.owner >= 0) & dropped[laid.owner] & ~laid.supervised)
    feature_starts, features = laid.features(samples, ~dropped)
    return Batch(
        step=plan.step,
        ids=laid.ids,
        inputs=np.where(hidden, np.int32(vocabulary.mask_id), laid.ids),
        supervised=laid.supervised,
        masked=masked,
        loss_weight=weight,
        tail=laid.tail,
        positions=laid.positions,
        segments=laid.segments(),
        modality=vocabulary.modality_of(laid.ids),
        samples=Samples(
            keys=[sample.key for sample in samples],
            tasks=[sample.task for sample in samples],
            source=plan.source[kept],
            index=plan.index[kept],
            epoch=plan.epoch[kept],
            row=laid.row,
            start=laid.start,
            length=laid.length,
            ratio=done.ratio,
            prompt_dropped=dropped,
        ),
        feature_starts=feature_starts,
        features=features,
        faults=tuple(faults),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layout:
    """Samples in rows, before anything is hidden.

    `owner` is the sample of each position, -1 in padding; the other names are those of `Batch` and
    `Samples`.
    """

    ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    tail: NDArray[np.bool_]
    positions: NDArray[np.int32]
    owner: NDArray[np.int32]
    row: Whole
    start: Whole
    length: Whole

    def supervised_positions(self, key: Words, time: NDArray[np.float64]) -> Supervised:
        """What masking works on; `owner` does not fall because samples lie in order."""
        return Supervised(
            owner=self.owner[self.supervised].astype(np.int64),
            place=self.positions[self.supervised].astype(np.int64),
            tail=self.tail[self.supervised],
            key=key,
            time=time,
        )

    def segments(self) -> NDArray[np.int32]:
        """Samples counted from 1 in each row."""
        first = np.searchsorted(self.row, np.arange(len(self.ids))).astype(np.int32)
        return np.where(self.owner >= 0, self.owner - first[:, None] + np.int32(1), np.int32(0))

    def features(
        self, samples: Sequence[Loaded], heard: NDArray[np.bool_]
    ) -> tuple[Whole, list[NDArray[np.float16]]]:
        """Continuous sounds of the samples whose prompt is not hidden, and where they begin."""
        starts: list[int] = []
        found: list[NDArray[np.float16]] = []
        for i in np.flatnonzero(heard).tolist():
            first = int(self.row[i]) * self.ids.shape[1] + int(self.start[i])
            starts += [first + int(at[0]) for at in samples[i].sequence.audio_indices]
            found += samples[i].features
        return np.array(starts, np.int64), found


def _lay_out(
    samples: Sequence[Loaded],
    row: Whole,
    pads: Whole,
    shape: tuple[int, int],
    vocabulary: Vocabulary,
) -> _Layout:
    """Put samples side by side into rows, each followed by its tail pads; `row` does not fall."""
    ids = np.full(shape, vocabulary.end_of_text_id, np.int32)
    supervised, tail = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    owner = np.full(shape, -1, np.int32)
    positions = np.zeros(shape, np.int32)
    lengths = pads + np.array([len(sample.sequence.ids) for sample in samples], np.int64)
    start = _starts(row, lengths)
    used = np.zeros(shape[0], np.int64)
    for i, (sample, r, a, n) in enumerate(
        zip(samples, row.tolist(), start.tolist(), lengths.tolist(), strict=True)
    ):
        body, end = a + len(sample.sequence.ids), a + n
        ids[r, a:body] = sample.sequence.ids
        supervised[r, a:body] = sample.sequence.supervised
        supervised[r, body:end] = tail[r, body:end] = True
        positions[r, a:end] = np.arange(n)
        owner[r, a:end] = i
        used[r] = end
    for r, end in enumerate(used.tolist()):
        positions[r, end:] = np.arange(shape[1] - end)
    return _Layout(
        ids=ids,
        supervised=supervised,
        tail=tail,
        positions=positions,
        owner=owner,
        row=row,
        start=start,
        length=lengths,
    )


def _starts(row: Whole, lengths: Whole) -> Whole:
    """Where each sample begins in its row; `row` does not fall."""
    ends = np.cumsum(lengths)
    first = np.flatnonzero(np.diff(row, prepend=-1))
    before = (ends - lengths)[first]
    return np.asarray(ends - lengths - np.repeat(before, np.diff(first, append=len(row))))


def describe(batch: Batch, sources: Sequence[str]) -> list[dict[str, Any]]:
    """One entry a sample of a batch: what `omni-diffusion batch` prints."""
    samples = batch.samples
    out = []
    for i in range(len(samples)):
        r, a, n = int(samples.row[i]), int(samples.start[i]), int(samples.length[i])
        part = (r, slice(a, a + n))
        out.append(
            {
                "row": r,
                "start": a,
                "length": n,
                "source": sources[samples.source[i]],
                "corpus_row": int(samples.index[i]),
                "key": samples.keys[i],
                "task": samples.tasks[i],
                "epoch": int(samples.epoch[i]),
                "supervised": int(batch.supervised[part].sum()),
                "masked": int(batch.masked[part].sum()),
                "ratio": round(float(samples.ratio[i]), 6),
                "tail_pads": int(batch.tail[part].sum()),
                "prompt_dropped": bool(samples.prompt_dropped[i]),
            }
        )
    return out
