"""What all sources share: numbering of partitions, the limit, and the count that must come out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.errors import SourceError
from omni_diffusion.pipelines.sources.partition import Partition


@dataclass(frozen=True, slots=True)
class Part:
    """A partition before it has its number; see `Partition`."""

    name: str
    spec: Mapping[str, Any]
    rows: int | None = None
    size: int | None = None


class PlannedSource(ABC):
    """A `Source` that is made of two things: its parts, and what comes out of one of them.

    Args:
        limit: how many records at most, counted from the beginning.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit

    @abstractmethod
    def parts(self) -> Iterator[Part]:
        """All parts in order, without the limit."""

    @abstractmethod
    def outcomes(self, partition: Partition) -> Iterator[MediaRecord | Reject]:
        """Everything that comes out of one partition, without the limit."""

    def partitions(self) -> Iterator[Partition]:
        """See `Source.partitions`. A limit needs counts: parts that do not know them are read."""
        left = self._limit
        for number, part in enumerate(self.parts()):
            if left is not None and left <= 0:
                return
            partition = Partition(
                number=number, name=part.name, spec=part.spec, rows=part.rows, size=part.size
            )
            if left is None:
                yield partition
                continue
            rows = part.rows
            if rows is None:
                rows = sum(1 for _ in islice(self.outcomes(partition), left))
            rows = min(rows, left)
            left -= rows
            yield replace(partition, rows=rows)

    def read(self, partition: Partition) -> Iterator[MediaRecord | Reject]:
        """See `Source.read`."""
        count = 0
        for outcome in islice(self.outcomes(partition), partition.rows):
            count += 1
            yield outcome
        if partition.rows is not None and count < partition.rows:
            reason = f"planned with {partition.rows} records, holds {count} now"
            raise SourceError(f"partition {partition.number} ({partition.name}): {reason}")
