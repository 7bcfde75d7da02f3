"""Which samples a report shows: the same ones each time, of every task and source alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import xxhash

from omni_diffusion.audit.audit import Audit

Group = tuple[str, str]
"""A task and a source."""

Name = TypeVar("Name")
Item = TypeVar("Item")

_SPARE = 4
"""Candidates of a group beyond the number wanted: for samples that cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a sample's payload is, and what it has to be (see the sidecar)."""

    key: str
    task: str
    source: str
    shard: int
    offset: int
    size: int
    crc: int


def candidates(audit: Audit, wanted: int, seed: int) -> dict[Group, list[Place]]:
    """Samples of every task and source, drawn by the seed.

    The draw is an order of content hashes, so it does not depend on the order of rows, on threads
    or on a version of DuckDB. Of samples with equal tokens, one is drawn.

    Args:
        audit: the corpus.
        wanted: samples to be shown; so many of every group, and a few to spare.
        seed: another one draws others.
    """
    mask = xxhash.xxh3_64_intdigest(str(seed).encode())
    sql = f"""
    SELECT coalesce(task, '') AS task, coalesce(source, '') AS source,
        min({{'rank': xor(content_hash, {mask}::UBIGINT), 'key': key, 'shard': shard,
            'offset': "offset", 'size': size, 'crc': crc}}, {wanted + _SPARE}) AS drawn
    FROM samples GROUP BY ALL ORDER BY ALL"""
    groups: dict[Group, list[Place]] = {}
    for row in audit.rows(sql):
        group = row["task"], row["source"]
        different = {drawn.pop("rank"): drawn for drawn in reversed(row["drawn"])}
        groups[group] = [
            Place(task=group[0], source=group[1], **different[rank]) for rank in sorted(different)
        ]
    return groups


def quotas(sizes: Mapping[Group, int], wanted: int) -> dict[Group, int]:
    """How many samples of every group are shown.

    Tasks share the number evenly, and so do the sources of a task; what a small one cannot fill
    goes to the others. A group gets no more than it has.

    Args:
        sizes: samples of every group.
        wanted: the number in all.
    """
    tasks: dict[str, dict[Group, int]] = defaultdict(dict)
    for group in sorted(sizes):
        tasks[group[0]][group] = sizes[group]
    of_tasks = _shared({task: sum(groups.values()) for task, groups in tasks.items()}, wanted)
    return {
        group: n
        for task, groups in tasks.items()
        for group, n in _shared(groups, of_tasks[task]).items()
    }


def _shared(room: Mapping[Name, int], wanted: int) -> dict[Name, int]:
    """Deal a number out, one each and round again; earlier names first."""
    given = dict.fromkeys(room, 0)
    left = min(wanted, sum(room.values()))
    while left:
        for name in islice([n for n in room if given[n] < room[n]], left):
            given[name] += 1
            left -= 1
    return given


def in_turns(groups: Mapping[Group, Sequence[Item]]) -> Iterator[Item]:
    """Items of all groups, ordered by task; inside a task its sources take turns."""
    tasks: dict[str, list[Sequence[Item]]] = defaultdict(list)
    for group in sorted(groups):
        tasks[group[0]].append(groups[group])
    for sources in tasks.values():
        for i in range(max(map(len, sources))):
            yield from (items[i] for items in sources if i < len(items))
