"""Records that could not be used: one row each, so that in = out + rejects, always."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

from omni_diffusion.corpus.sidecar import read_table, write_parquet
from omni_diffusion.corpus.storage import Storage

SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("key", "stage", "reason", "detail")]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """Why a record is not in the corpus.

    Attributes:
        key: the record's key, or its place in the source where it has none.
        stage: which step refused it: `read`, `validate`, `decode`, `encode`, ...
        reason: a short, countable code or phrase.
        detail: the whole message.
    """

    key: str
    stage: str
    reason: str
    detail: str = ""


def rejects_name(number: int) -> str:
    """Name of a shard's rejects below the corpus root."""
    return f"rejects/{number:05d}.parquet"


def encode_rejects(rejects: Sequence[Reject]) -> bytes:
    """The rejects file of one shard."""
    sink = io.BytesIO()
    write_parquet(pa.Table.from_pylist([asdict(r) for r in rejects], schema=SCHEMA), sink)
    return sink.getvalue()


def read_rejects(storage: Storage, number: int) -> list[Reject]:
    """The rejects of one shard; [] where it had none.

    Raises:
        CorpusError: the file is damaged.
    """
    if storage.size(rejects_name(number)) is None:
        return []
    return [Reject(**row) for row in read_table(storage, rejects_name(number)).to_pylist()]


def count_reasons(rejects: Iterator[Reject]) -> Counter[str]:
    """How many records fell to each `stage: reason`."""
    return Counter(f"{reject.stage}: {reject.reason}" for reject in rejects)
