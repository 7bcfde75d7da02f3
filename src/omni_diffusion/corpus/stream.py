"""Batches of a corpus in an order that nothing but (seed, step) decides.

Position p of the endless stream lies in epoch p // n; batch s holds positions s*B to s*B+B-1, and
rank r of W takes every W-th of them. Worker processes, threads, ranks and restarts therefore see
the same global batches, and the state of a pass is its step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.order import Rows, permute
from omni_diffusion.corpus.sample import Sample
from omni_diffusion.errors import CorpusError

_BLOCK = 16_384


@dataclass(frozen=True, kw_only=True)
class SampleStream:
    """Map-style: `stream[step]` is the list of samples that one rank reads in one step.

    It can be handed to `torch.utils.data.DataLoader(stream, batch_size=None, num_workers=...)`.

    Attributes:
        corpus: what to read.
        batch_size: samples of one step over all ranks together.
        seed: of the shuffle; None keeps the order of the index.
        rank: which part of each batch this process reads.
        world_size: parts of a batch.
    """

    corpus: Corpus
    batch_size: int
    seed: int | None = 0
    rank: int = 0
    world_size: int = 1
    _blocks: dict[int, Rows] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not len(self.corpus):
            raise CorpusError(self.corpus.storage.root, "has no samples to stream")
        if self.batch_size < 1 or not 0 <= self.rank < self.world_size:
            raise ValueError(f"batch_size {self.batch_size}, rank {self.rank}/{self.world_size}")

    def __len__(self) -> int:
        """Steps until every sample was seen once (the last one may reach into the next epoch)."""
        return -(-len(self.corpus) // self.batch_size)

    def __iter__(self) -> Iterator[list[Sample]]:
        """The steps of one pass."""
        return map(self.__getitem__, range(len(self)))

    def rows(self, step: int) -> Rows:
        """Rows of the whole batch of a step, int64 [batch_size]; any step from 0 on."""
        block = min(_BLOCK, len(self.corpus))
        first, last = step * self.batch_size, (step + 1) * self.batch_size - 1
        blocks = [self._block(number, block) for number in range(first // block, last // block + 1)]
        start = first % block
        return np.concatenate(blocks)[start : start + self.batch_size]

    def _block(self, number: int, length: int) -> Rows:
        """Rows of a run of positions: arithmetic on long arrays costs a tenth of that on short."""
        if number not in self._blocks:
            n = len(self.corpus)
            positions = np.arange(number * length, (number + 1) * length)
            rows = positions % n
            if self.seed is not None:
                for epoch in range(int(positions[0]) // n, int(positions[-1]) // n + 1):
                    inside = positions // n == epoch
                    rows[inside] = permute(rows[inside], n, self.seed, epoch)
            for old in list(self._blocks)[:-1]:
                del self._blocks[old]
            self._blocks[number] = rows
        return self._blocks[number]

    def __getitem__(self, step: int) -> list[Sample]:
        """This rank's samples of a step."""
        return list(self.corpus.samples(self.rows(step)[self.rank :: self.world_size]))

    def state(self, step: int) -> dict[str, Any]:
        """What to keep so that a pass can go on at `step`: JSON, independent of ranks."""
        return {"step": step, **self._identity()}

    def resume(self, state: dict[str, Any]) -> int:
        """The step to go on with.

        Raises:
            CorpusError: the state belongs to other data, another seed or another batch size.
        """
        for name, mine in self._identity().items():
            if state.get(name) != mine:
                reason = f"cannot resume: {name} was {state.get(name)!r} and is {mine!r}"
                raise CorpusError(self.corpus.storage.root, reason)
        return int(state["step"])

    def _identity(self) -> dict[str, Any]:
        digest = self.corpus.manifest.digest
        return {"digest": digest, "seed": self.seed, "batch_size": self.batch_size}
