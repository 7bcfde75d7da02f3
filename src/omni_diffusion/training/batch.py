"""Rows of a step as arrays: samples side by side, then the noise.

A row holds whole samples, each with positions of its own from 0 on, each followed by its tail pads;
what is left at the end of a row is padding that no sample sees (`segments` 0). `inputs` is what the
model reads: hidden tokens, and with prompt dropout whole prompts, are the mask id in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_diffusion.tokenize.chat import ChatSequence
from omni_diffusion.tokenize.vocabulary import Vocabulary
from omni_diffusion.training.masking import Supervised, mask
from omni_diffusion.training.noise import Purpose, draws, uniforms
from omni_diffusion.training.recipe import MaskingRecipe
from omni_diffusion.training.steps import StepPlan


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
    source: NDArray[np.int64]
    index: NDArray[np.int64]
    epoch: NDArray[np.int64]
    row: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
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
    feature_starts: NDArray[np.int64]
    features: Sequence[NDArray[np.float16]]
    faults: Sequence[Fault]

    @property
    def fill(self) -> float:
        """Part of the positions that samples and their tail pads take."""
        return float(np.count_nonzero(self.segments)) / max(self.segments.size, 1)

    @property
    def cu_seqlens(self) -> NDArray[np.int32]:
        """Bounds of all segments of the flattened rows, from 0 to R L; padding is one, too."""
        flat = self.segments.reshape(-1)
        starts = np.flatnonzero(np.diff(flat, prepend=-1))
        at_row = np.arange(0, flat.size, max(self.segments.shape[1], 1))
        return np.append(np.union1d(starts, at_row), flat.size).astype(np.int32)


def build_batch(
    plan: StepPlan,
    places: NDArray[np.int64],
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
        places: positions in the plan of the samples that belong to these rows.
        rows: which rows of the step; numbers that the plan does not know become empty rows.
        loaded: by position in the plan, the samples that could be read.
        faults: those that could not.
        row_length: L.
        vocabulary: the id layout.
        masking: how to hide tokens.
        prompt_dropout: part of the samples whose prompt is hidden.
    """
    shape = (len(rows), row_length)
    ids = np.full(shape, vocabulary.end_of_text_id, np.int32)
    supervised, tail = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    positions, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    kept = np.array([place for place in places.tolist() if place in loaded], np.int64)
    at_row = {row: at for at, row in enumerate(rows)}
    row = np.array([at_row[r] for r in plan.row[kept].tolist()], np.int64)
    lengths = np.array([len(loaded[p].sequence.ids) for p in kept.tolist()], np.int64)
    lengths += plan.pads[kept]
    start = _starts(row, lengths)
    dropped = uniforms(draws(plan.key[kept], Purpose.PROMPT_DROPOUT)) < prompt_dropout
    features, feature_starts = [], []
    for i, place in enumerate(kept.tolist()):
        sample, r, a = loaded[place], int(row[i]), int(start[i])
        body, end = a + len(sample.sequence.ids), a + int(lengths[i])
        ids[r, a:body] = sample.sequence.ids
        supervised[r, a:body] = sample.sequence.supervised
        supervised[r, body:end] = tail[r, body:end] = True
        positions[r, a:end] = np.arange(end - a)
        segments[r, a:end] = i + 1
        if not dropped[i]:
            for where, frames in zip(sample.sequence.audio_indices, sample.features, strict=True):
                feature_starts.append(r * row_length + a + int(where[0]))
                features.append(frames)
    _pad_positions(positions, segments)
    first = np.searchsorted(row, np.arange(len(rows)))
    owner = segments - 1  # of all samples; from here on segments count within the row
    segments = np.where(segments > 0, segments - first[:, None].astype(np.int32), 0)

    at = np.flatnonzero(supervised.reshape(-1))
    flat_owner = owner.reshape(-1)[at].astype(np.int64)
    done = mask(
        Supervised(
            owner=flat_owner,
            place=positions.reshape(-1)[at].astype(np.int64),
            tail=tail.reshape(-1)[at],
            key=plan.key[kept],
            time=plan.time[kept],
        ),
        masking,
    )
    masked, weight = np.zeros(shape, np.bool_), np.zeros(shape, np.float32)
    tasks = [loaded[p].task for p in kept.tolist()]
    scale = np.array([masking.task_scales.get(task, 1.0) for task in tasks])
    masked.reshape(-1)[at] = done.masked
    weight.reshape(-1)[at] = done.weight * scale[flat_owner]
    hidden = masked
    if dropped.any():
        hidden = masked | ((owner >= 0) & dropped[owner] & ~supervised)
    return Batch(
        step=plan.step,
        ids=ids,
        inputs=np.where(hidden, np.int32(vocabulary.mask_id), ids),
        supervised=supervised,
        masked=masked,
        loss_weight=weight,
        tail=tail,
        positions=positions,
        segments=segments,
        modality=vocabulary.modality_of(ids),
        samples=Samples(
            keys=[loaded[p].key for p in kept.tolist()],
            tasks=tasks,
            source=plan.source[kept],
            index=plan.index[kept],
            epoch=plan.epoch[kept],
            row=row,
            start=start,
            length=lengths,
            ratio=done.ratio,
            prompt_dropped=dropped,
        ),
        feature_starts=np.array(feature_starts, np.int64),
        features=features,
        faults=tuple(faults),
    )


def _starts(row: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each sample begins in its row; `row` does not fall."""
    ends = np.cumsum(lengths)
    first = np.flatnonzero(np.diff(row, prepend=-1))
    before = (ends - lengths)[first]
    return np.asarray(ends - lengths - np.repeat(before, np.diff(first, append=len(row))))


def _pad_positions(positions: NDArray[np.int32], segments: NDArray[Any]) -> None:
    """Count positions of the padding at the end of each row from 0."""
    for r, used in enumerate((segments > 0).sum(axis=1).tolist()):
        positions[r, used:] = np.arange(positions.shape[1] - used)


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
