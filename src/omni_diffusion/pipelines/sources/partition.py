"""The unit of work: one partition of a source becomes one shard of the same number.

A source cuts its input into partitions without looking at the cluster, so the same input and
recipe give the same partitions, and the same shards, everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.rejects import Reject


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """A part of a source that one worker reads from beginning to end.

    Attributes:
        number: 0, 1, 2, ...: also the number of its shard.
        name: what a person sees, e.g. `train-00003.parquet rows 0..999`.
        spec: plain JSON that the source needs to find it again.
        rows: records in it, where the source knows that without reading them.
        size: bytes to read, roughly, where the source knows.
    """

    number: int
    name: str
    spec: Mapping[str, Any] = field(default_factory=dict)
    rows: int | None = None
    size: int | None = None


class Source(Protocol):
    """Where records come from."""

    def partitions(self) -> Iterator[Partition]:
        """All partitions, numbered from 0 without gaps, the same in every run.

        Raises:
            SourceError: the source is not there or of another form than the recipe says.
            StorageError: a store refused.
        """
        ...

    def read(self, partition: Partition) -> Iterator[MediaRecord | Reject]:
        """Every record of one partition, in order: still encoded, or the reject that says why not.

        Keys are unique in the whole source and the same in every run.

        What lies in the data (a broken row, a picture that is not there) is a reject. What lies
        in the way (a store that refuses, a file that has vanished) is raised, because reading
        again may succeed: then the whole partition is tried again.

        Raises:
            SourceError: the partition is no longer what it was when it was planned.
            StorageError: a store refused.
        """
        ...
