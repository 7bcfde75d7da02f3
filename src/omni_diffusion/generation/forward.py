"""One pass of the model over the unfinished answers, whole or, by approximation, in part.

A whole pass computes every token of every answer, and of its unconditional twin where there is
guidance. With a cache, the passes between two whole ones compute only the open blocks and use the
keys and values that the last whole pass left for everything else: the prompt, blocks that are done
and blocks to come. Causal models do this exactly. With full attention those keys would change a
little with every token that is kept, so the answers may differ. A whole pass comes with every new
block, whenever an answer has finished, and at the latest after `cache_refresh` passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_diffusion.backbone.attention import Segments
from omni_diffusion.backbone.dream import Dream, Inserts, KeyValues


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One row of ids for the model.

    Attributes:
        ids: int64 [L], on the CPU.
        inserts: vectors in place of some embeddings, by position in the sample.
        block: start and end of the open block.
        wanted: int64 [n], tokens whose predicting hidden states are asked for.
    """

    ids: Tensor
    inserts: Inserts | None
    block: tuple[int, int]
    wanted: Tensor

    @property
    def computed(self) -> tuple[int, int]:
        """What a partial pass computes: the block, and the token before, which predicts it."""
        start, end = self.block
        return max(start - 1, 0), end


class Passes:
    """Runs the model, and remembers keys and values where that is asked for.

    Attributes:
        refresh: after how many passes everything is computed again; None where it always is.
        forwards: passes so far.
        tokens: tokens that they computed.
    """

    def __init__(self, refresh: int | None) -> None:
        """Compute everything every time, or with `refresh` at the latest every so many passes."""
        self.forwards = self.tokens = 0
        self.refresh = refresh
        self._cache: KeyValues | None = None
        self._age = 0
        self._layout: object = None

    def run(self, model: Dream, samples: Sequence[Sample], members: object) -> Tensor:
        """Hidden states that predict the wanted tokens, sample by sample: [n, hidden size].

        Args:
            model: runs on its own device.
            samples: rows of the unfinished answers.
            members: equal to that of the last pass where the same answers are under way.
        """
        device = model.lm_head.weight.device
        lengths = [len(s.ids) for s in samples]
        parts = [(0, n) for n in lengths]
        cache = None
        if self.refresh is not None:
            cache = self._held(samples, (members, [s.block for s in samples]), device)
            if len(cache.rows) < sum(lengths):
                parts = [s.computed for s in samples]
        segments = Segments(
            [b - a for a, b in parts], device, lengths, first_positions=[a for a, _ in parts]
        )
        self.forwards += 1
        self.tokens += segments.total
        ids = torch.cat([s.ids[a:b] for s, (a, b) in zip(samples, parts, strict=True)]).to(device)
        hidden = model(ids, segments, _inserts(samples, parts, segments), cache)
        rows = [
            # Row i predicts token i + 1; the first token of a sample has only its own row.
            start - a + (s.wanted - 1).clamp_min(0)
            for s, start, (a, _) in zip(samples, segments.starts.tolist(), parts, strict=True)
        ]
        wanted: Tensor = hidden[torch.cat(rows).to(device)]
        return wanted

    def _held(self, samples: Sequence[Sample], layout: object, device: torch.device) -> KeyValues:
        """Keys and values with the rows that this pass computes: all of them, or the blocks'."""
        lengths = [len(s.ids) for s in samples]
        self._age += 1
        if self._cache is None or layout != self._layout or self._age == self.refresh:
            self._cache = KeyValues(torch.arange(sum(lengths), device=device))
            self._layout, self._age = layout, 0
        else:
            starts = Segments(lengths).starts.tolist()
            blocks = [s.computed for s in samples]
            spans = [torch.arange(o + a, o + b) for o, (a, b) in zip(starts, blocks, strict=True)]
            self._cache.rows = torch.cat(spans).to(device)
        return self._cache


def _inserts(
    samples: Sequence[Sample], parts: Sequence[tuple[int, int]], segments: Segments
) -> Inserts | None:
    """The inserts of the parts that are computed, by position in the packed row."""
    positions, vectors = [], []
    for sample, (a, b), start in zip(samples, parts, segments.starts.tolist(), strict=True):
        if sample.inserts is not None:
            inside = (sample.inserts.positions >= a) & (sample.inserts.positions < b)
            positions.append(sample.inserts.positions[inside] - a + start)
            vectors.append(sample.inserts.vectors[inside])
    if not positions:
        return None
    return Inserts(torch.cat(positions).to(segments.device), torch.cat(vectors).to(segments.device))
