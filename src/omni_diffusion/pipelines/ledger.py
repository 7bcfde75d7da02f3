"""What a job has done already, read from its output alone.

A partition is done exactly when its shard's tar and sidecar are both there. Anything else that
bears a shard's name, and every temporary file, was left by a writer that died.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from omni_diffusion.corpus.index import INDEX
from omni_diffusion.corpus.manifest import MANIFEST
from omni_diffusion.corpus.rejects import rejects_name
from omni_diffusion.corpus.sidecar import sidecar_name, tar_name
from omni_diffusion.corpus.storage import TEMPORARY, Storage
from omni_diffusion.errors import JobError

_TAR = re.compile(r"shards/(\d{5,})\.tar")
_SIDECAR = re.compile(r"shards/(\d{5,})\.parquet")
_REJECTS = re.compile(r"rejects/(\d{5,})\.parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """The state of an output folder.

    Attributes:
        done: numbers of the shards that are complete.
        with_rejects: those among them that have a file of rejects.
        debris: names of files that no complete shard owns.
    """

    done: frozenset[int]
    with_rejects: frozenset[int]
    debris: tuple[str, ...]


def read_ledger(storage: Storage, partitions: int) -> Ledger:
    """List an output folder.

    Args:
        storage: the output.
        partitions: how many the plan has.

    Raises:
        JobError: there is a shard that the plan does not have.
        StorageError: the store refused.
    """
    found: dict[re.Pattern[str], set[int]] = {_TAR: set(), _SIDECAR: set(), _REJECTS: set()}
    debris = []
    for folder in ("shards", "rejects"):
        for entry in storage.list(folder):
            if entry.name.rpartition("/")[2].startswith(TEMPORARY):
                debris.append(entry.name)
                continue
            for pattern, numbers in found.items():
                if match := pattern.fullmatch(entry.name):
                    numbers.add(int(match[1]))
    done = found[_TAR] & found[_SIDECAR]
    if beyond := sorted(number for number in done if number >= partitions):
        raise JobError(
            f"{storage.path(tar_name(beyond[0]))}: the plan has only {partitions} partitions; "
            "this folder holds the output of another source"
        )
    names = ((_TAR, tar_name), (_SIDECAR, sidecar_name), (_REJECTS, rejects_name))
    for pattern, name in names:
        debris.extend(name(number) for number in sorted(found[pattern] - done))
    return Ledger(
        done=frozenset(done),
        with_rejects=frozenset(done & found[_REJECTS]),
        debris=tuple(debris),
    )


def clear(storage: Storage, names: Iterable[str]) -> None:
    """Remove files that dead writers left; call it only while no writer is at work.

    Raises:
        StorageError: the store refused.
    """
    for name in names:
        storage.remove(name)


def open_for_change(storage: Storage) -> None:
    """Remove manifest and index, which speak of the corpus as it was, before it changes.

    Raises:
        StorageError: the store refused.
    """
    for name in (MANIFEST, INDEX):
        storage.remove(name)
