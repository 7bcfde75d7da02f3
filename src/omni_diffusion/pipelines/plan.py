"""The plan of a job: every partition of its source, fixed once for all and kept in the output.

The first run asks the source and writes `plan.parquet`; later runs read that file. So a job that
is run again does the same partitions even where listing the source again would be slow or would
find more, and anyone can see which part of the source a shard was made of.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pyarrow as pa

from omni_diffusion.corpus.sidecar import read_table, write_parquet
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import SourceError
from omni_diffusion.pipelines.sources.partition import Partition, Source

PLAN = "plan.parquet"

_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("spec", pa.string(), nullable=False),
        pa.field("rows", pa.int64()),
        pa.field("size", pa.int64()),
    ]
)


class Plan:
    """All partitions of a job, in columns: a few tens of bytes for each.

    Args:
        table: one row a partition, in order of their numbers.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table.combine_chunks()

    def __len__(self) -> int:
        rows: int = self._table.num_rows
        return rows

    def partition(self, number: int) -> Partition:
        """One partition by its number."""
        row = {name: self._table[name][number].as_py() for name in _SCHEMA.names}
        return Partition(number=number, **row | {"spec": json.loads(row["spec"])})

    def total(self, column: str) -> int | None:
        """Sum of `rows` or `size`, or None where a partition does not know its own."""
        import pyarrow.compute as pc

        values = self._table[column]
        total: int = pc.sum(values).as_py() or 0
        return None if values.null_count else total


def read_plan(storage: Storage) -> Plan | None:
    """The plan that an earlier run left, or None.

    Raises:
        CorpusError: the file is damaged.
    """
    if storage.size(PLAN) is None:
        return None
    return Plan(read_table(storage, PLAN, _SCHEMA.names))


def make_plan(source: Source, on_partition: Callable[[int], None] | None = None) -> Plan:
    """Ask a source for its partitions.

    Args:
        source: where the records are.
        on_partition: called with the number of partitions found so far.

    Raises:
        SourceError: the source is not there, is empty, or numbers its partitions with gaps.
    """
    columns: dict[str, list[object]] = {name: [] for name in _SCHEMA.names}
    for expected, part in enumerate(source.partitions()):
        if part.number != expected:
            raise SourceError(f"partition {part.name}: numbered {part.number}, not {expected}")
        spec = json.dumps(part.spec, sort_keys=True, separators=(",", ":"))
        for name, value in zip(_SCHEMA.names, (part.name, spec, part.rows, part.size), strict=True):
            columns[name].append(value)
        if on_partition:
            on_partition(expected + 1)
    if not columns["name"]:
        raise SourceError("the source holds no records")
    return Plan(pa.table(columns, schema=_SCHEMA))


def save_plan(storage: Storage, plan: Plan) -> None:
    """Keep a plan in the output.

    Raises:
        ShardConflictError: another run has planned something else there in the meantime.
        StorageError: the store refused.
    """
    sink = io.BytesIO()
    write_parquet(plan._table, sink)
    storage.publish_bytes(sink.getvalue(), PLAN)
