"""What the checks of a corpus share: what they find, and how they reach many shards."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from omni_diffusion.corpus.shard import ShardReader
from omni_diffusion.corpus.sidecar import tar_name
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError, OmniError

Found = TypeVar("Found")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong: which file, and what."""

    path: str
    reason: str


@dataclass(kw_only=True)
class Report:
    """What a walk found.

    Attributes:
        root: the corpus.
        shards: how many were checked.
        rows: samples in them.
        rejects: records that were set aside.
        problems: everything that is wrong; empty where all is well.
        notes: what is not wrong but worth knowing, such as files of a killed writer.
    """

    root: str
    shards: int = 0
    rows: int = 0
    rejects: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    def add(self, error: OmniError) -> None:
        """Note an error as a problem."""
        path = error.path if isinstance(error, CorpusError) else self.root
        reason = error.reason if isinstance(error, CorpusError) else str(error)
        self.problems.append(Problem(path, reason))


def map_shards(
    check: Callable[[int], Found],
    numbers: Sequence[int],
    workers: int | None,
    on_shard: Progress | None,
) -> Iterator[tuple[int, Found]]:
    """Check shards in several processes, in any order.

    Args:
        check: a function of a shard's number that can be sent to another process.
        numbers: of the shards.
        workers: processes; as many as there are cores by default.
        on_shard: called with (shards done, shards in all).
    """
    workers = min(workers or os.cpu_count() or 1, len(numbers))
    done = 0
    if workers <= 1:
        for number in numbers:
            yield number, check(number)
            done += 1
            if on_shard:
                on_shard(done, len(numbers))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting = {pool.submit(check, number): number for number in numbers}
        for finished in as_completed(waiting):
            yield waiting[finished], finished.result()
            done += 1
            if on_shard:
                on_shard(done, len(numbers))


@contextmanager
def local_tar(storage: Storage, number: int) -> Iterator[ShardReader]:
    """One tar as a reader; a remote one is downloaded for the time of the block."""
    with local(storage, tar_name(number)) as path:
        yield ShardReader(path, storage.path(tar_name(number)))


@contextmanager
def local(storage: Storage, name: str) -> Iterator[Path]:
    """Path of a file on this machine; a remote one is downloaded for the time of the block."""
    if storage.is_local:
        yield Path(storage.path(name))
        return
    with storage.temporary(name) as part:
        storage.download(name, part)
        yield part
