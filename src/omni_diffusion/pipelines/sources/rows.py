"""What the readers hand to the record makers: rows, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.errors import RecordError

_MAX_DETAIL = 500


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set.

    Attributes:
        cells: column name to value, as the file holds it.
        origin: where it stands, e.g. `train-00003.parquet#17`.
    """

    cells: Mapping[str, Any]
    origin: str


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A row that cannot be read: it still counts, and becomes a reject."""

    origin: str
    reason: str
    detail: str = ""


class Refusal(Exception):
    """Why one record cannot be made; it never leaves the sources, but becomes a reject.

    Attributes:
        reason: short and countable.
        detail: the rest.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(reason, detail)


def row_key(source: str, partition: int, row: int, task: str = "") -> str:
    """The key of a record: its place, so it is unique and the same in every run."""
    key = f"{source}-{partition:05d}-{row:06d}"
    return f"{key}-{task}" if task else key


def refused(key: str, origin: str, refusal: Refusal | RecordError | BrokenRow) -> Reject:
    """The reject of a record."""
    if isinstance(refusal, RecordError):
        part = refusal.field.partition(".")[0] or "record"
        mismatch = part in ("images", "audios") and "messages have" in refusal.reason
        reason = "placeholder mismatch" if mismatch else f"invalid {part}"
        return _reject(key, "validate", reason, f"{origin}: {refusal.field}: {refusal.reason}")
    return _reject(key, "read", refusal.reason, f"{origin}: {refusal.detail}".removesuffix(": "))


def _reject(key: str, stage: str, reason: str, detail: str) -> Reject:
    # Details quote the data, which may hold what UTF-8 cannot say.
    plain = detail.encode(errors="backslashreplace").decode()
    short = plain if len(plain) <= _MAX_DETAIL else f"{plain[:_MAX_DETAIL]}..."
    return Reject(key=key, stage=stage, reason=reason, detail=short)
