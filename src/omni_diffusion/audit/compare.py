"""Two corpora side by side: what was added, removed or changed, and how distributions moved.

"Mine" is the corpus of the session, "theirs" the one that it is held against, usually an older
state of the same corpus. A sample is the same if its key is; of equal keys, `changed` have other
tokens, `relabelled` have the same tokens and another record.

How far a distribution moved is a number between 0 and 1: for names the total variation distance
(the share of samples that would have to change), for numbers the Kolmogorov-Smirnov distance (the
largest difference of the two cumulative shares), for code books total variation over codes. Beside
it stands what chance alone gives on average for so many samples drawn from the pooled distribution
(of codes, as if they were drawn one by one). `drifts` is said of three times that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from omni_diffusion.audit.audit import Audit
from omni_diffusion.audit.contents import CODE_STREAMS
from omni_diffusion.corpus.sidecar import LENGTHS, QUALITY

NAMES = ("task", "source", "language", "license", "voice", "tts_engine")
NUMBERS = ("sequence_len", *LENGTHS, "n_spans", "supervised_len", *QUALITY)

_FACTOR = 3
_KOLMOGOROV_MEAN = 0.8687
"""Mean of the Kolmogorov distribution: sqrt(pi / 2) * ln 2."""

Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What became of the samples of one source; `source` is None where records name none.

    Attributes:
        source: mine of what is in both, theirs of what was removed.
        added: in mine only.
        removed: in theirs only.
        changed: in both, with other tokens.
        relabelled: in both, with the same tokens and another record.
        same: in both, equal.
        renamed: of the added, those whose tokens are in theirs under another key.
        first_added: the first such key, and so on.
    """

    source: str | None
    added: int
    removed: int
    changed: int
    relabelled: int
    same: int
    renamed: int
    first_added: str | None
    first_removed: str | None
    first_changed: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """How one distribution moved.

    Attributes:
        name: column, or code book.
        kind: how the distance is measured.
        distance: 0 for equal, 1 for disjoint.
        chance: what the distance would be on average if nothing had moved.
        drifts: whether it is more than chance explains.
        mine: samples that have a value (for codes: codes).
        theirs: the same of the other corpus.
        most: what moved most, in words.
    """

    name: str
    kind: Literal["names", "numbers", "codes"]
    distance: float
    chance: float
    drifts: bool
    mine: int
    theirs: int
    most: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Everything that differs between two corpora.

    Attributes:
        corpora: rows of (what, mine, theirs): names, counts and fingerprints that differ.
        changes: one entry a source; the last one of all together, with source `(all)`.
        drifts: one entry a distribution, the largest first.
    """

    corpora: list[tuple[str, str, str]]
    changes: list[Changes]
    drifts: list[Drift]


def compare(audit: Audit, on_part: Callable[[int, int], None] | None = None) -> Comparison:
    """Compare the two corpora of a session.

    Args:
        audit: a session with a second corpus. Code books are counted in the tars: of all samples,
            or of some of each corpus if the session reads only some.
        on_part: called with (parts done, parts in all).

    Raises:
        QueryError: there is no second corpus.
        CorpusError: a file is damaged or gone.
    """
    corpora = audit.pair()
    parts = len(NAMES) + len(NUMBERS) + 2
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if on_part:
            on_part(done, parts)

    changes = _changes(audit)
    step()
    drifts = []
    for name in NAMES:
        drifts.append(_names(name, audit))
        step()
    for name in NUMBERS:
        drifts.append(_numbers(name, audit))
        step()
    drifts += [_codes(stream, audit) for stream in _comparable(corpora, audit)]
    step()
    known = [drift for drift in drifts if drift.mine or drift.theirs]
    return Comparison(
        corpora=corpora, changes=changes, drifts=sorted(known, key=lambda d: -d.distance)
    )


_CHANGES = """
WITH pairs AS (
    SELECT
        coalesce(a.key, b.key) AS key,
        CASE WHEN a.key IS NULL THEN b.source ELSE a.source END AS source,
        CASE
            WHEN b.key IS NULL THEN 'added'
            WHEN a.key IS NULL THEN 'removed'
            WHEN a.content_hash <> b.content_hash THEN 'changed'
            WHEN a.crc <> b.crc THEN 'relabelled'
            ELSE 'same'
        END AS kind,
        a.content_hash AS content_hash
    FROM (SELECT key, source, content_hash, crc FROM samples) AS a
    FULL JOIN (SELECT key, source, content_hash, crc FROM other.samples) AS b USING (key)
), renamed AS (
    SELECT DISTINCT key FROM pairs
    SEMI JOIN other.samples AS o ON pairs.content_hash = o.content_hash
    WHERE kind = 'added'
)
SELECT
    grouping(source) = 1 AS everything,
    source,
    count(*) FILTER (kind = 'added') AS added,
    count(*) FILTER (kind = 'removed') AS removed,
    count(*) FILTER (kind = 'changed') AS changed,
    count(*) FILTER (kind = 'relabelled') AS relabelled,
    count(*) FILTER (kind = 'same') AS same,
    count(*) FILTER (renamed.key IS NOT NULL) AS renamed,
    min(pairs.key) FILTER (kind = 'added') AS first_added,
    min(pairs.key) FILTER (kind = 'removed') AS first_removed,
    min(pairs.key) FILTER (kind IN ('changed', 'relabelled')) AS first_changed
FROM pairs LEFT JOIN renamed ON pairs.key = renamed.key
GROUP BY GROUPING SETS ((source), ())
ORDER BY everything, count(*) DESC, source
"""


def _changes(audit: Audit) -> list[Changes]:
    found = []
    for row in audit.rows(_CHANGES):
        if row.pop("everything"):
            row["source"] = "(all)"
        found.append(Changes(**row))
    return found


def _values(audit: Audit, value: str) -> tuple[list[Any], Counts, Counts]:
    """Each value that is not NULL, ascending, and how many samples of mine and theirs have it."""
    each = " UNION ALL ".join(
        f"SELECT {value} AS value, {mine} * count(*) AS mine, {1 - mine} * count(*) AS theirs "
        f"FROM {samples} GROUP BY ALL"
        for mine, samples in ((1, "samples"), (0, "other.samples"))
    )
    table = audit.query(
        f"SELECT value, sum(mine)::BIGINT AS mine, sum(theirs)::BIGINT AS theirs FROM ({each}) "
        "WHERE value IS NOT NULL GROUP BY value ORDER BY value"
    ).read_all()
    mine, theirs = (table[name].to_numpy().astype(np.int64) for name in ("mine", "theirs"))
    return table["value"].to_pylist(), mine, theirs


def _names(name: str, audit: Audit) -> Drift:
    # A sample without a value is one of the values here: labels that vanish are a drift too.
    values, mine, theirs = _values(audit, f"coalesce({name}, '(none)')")
    if values == ["(none)"]:
        mine, theirs = np.zeros_like(mine), np.zeros_like(theirs)
    return _of_names(name, "names", values, mine, theirs)


def _of_names(
    name: str, kind: Literal["names", "codes"], values: list[Any], mine: Counts, theirs: Counts
) -> Drift:
    a, b = _shares(mine), _shares(theirs)
    n, m = int(mine.sum()), int(theirs.sum())
    distance = float(np.abs(a - b).sum() / 2)
    pooled = _shares(mine + theirs)
    # The mean of |x| for a normal x is 0.798 of its deviation.
    spread = np.sqrt(pooled * (1 - pooled) * (1 / max(n, 1) + 1 / max(m, 1)))
    chance = float(np.sqrt(2 / np.pi) * spread.sum() / 2)
    most = ""
    if distance and n and m:
        at = int(np.argmax(np.abs(a - b)))
        most = f"{values[at]}: {b[at]:.2%} -> {a[at]:.2%}"
    return _drift(name, kind, distance, chance, n, m, most)


def _numbers(name: str, audit: Audit) -> Drift:
    # Measured values have as many digits as a float; three places are what anybody looks at.
    value = f"round({name}::DOUBLE, 3)" if name in QUALITY else name
    values, mine, theirs = _values(audit, value)
    n, m = int(mine.sum()), int(theirs.sum())
    a, b = np.cumsum(_shares(mine)), np.cumsum(_shares(theirs))
    distance = float(np.abs(a - b).max()) if n and m else float(bool(n) != bool(m))
    chance = _KOLMOGOROV_MEAN * np.sqrt(1 / max(n, 1) + 1 / max(m, 1))
    if np.flatnonzero(mine + theirs).size < 2:
        chance = 0.0
    most = ""
    if n and m and distance:
        number = np.array(values, np.float64)
        means = [float(number @ _shares(counts)) for counts in (theirs, mine)]
        points = [f"mean {means[0]:.4g} -> {means[1]:.4g}"]
        for label, part in (("median", 0.5), ("p95", 0.95)):
            was, now = (_quantile(number, cumulative, part) for cumulative in (b, a))
            points.append(f"{label} {was:.4g} -> {now:.4g}")
        most = ", ".join(points)
    return _drift(name, "numbers", distance, float(chance), n, m, most)


def _comparable(corpora: list[tuple[str, str, str]], audit: Audit) -> list[str]:
    """Streams whose codes mean the same in both corpora; a note says which do not."""
    differ = [name.partition(" ")[0] for name, a, b in corpora if "tokens by" in name and a != b]
    for name in differ:
        audit.notes.append(f"{name} tokens are of different tokenizers: codes were not compared")
    return [stream for stream in CODE_STREAMS if not stream.startswith(tuple(differ))]


def _codes(stream: str, audit: Audit) -> Drift:
    counts = []
    for codes in ("codes", "other.codes"):
        rows = audit.query(f"SELECT code, \"count\" FROM {codes} WHERE stream = '{stream}'")
        table = rows.read_all()
        count = np.zeros(1 << 16, np.int64)
        count[table["code"].to_numpy()] = table["count"].to_numpy()
        counts.append(count)
    used = np.flatnonzero(counts[0] + counts[1])
    mine, theirs = counts[0][used], counts[1][used]
    values = [f"code {code}" for code in used.tolist()]
    return _of_names(f"{stream} codes", "codes", values, mine, theirs)


def _drift(
    name: str,
    kind: Literal["names", "numbers", "codes"],
    distance: float,
    chance: float,
    mine: int,
    theirs: int,
    most: str,
) -> Drift:
    if not (mine and theirs):
        most = f"no value in {'theirs' if mine else 'mine'}"
    return Drift(
        name=name,
        kind=kind,
        distance=round(distance, 6),
        chance=round(chance, 6),
        drifts=bool(distance > _FACTOR * chance and distance > 0),
        mine=mine,
        theirs=theirs,
        most=most,
    )


def _shares(counts: Counts) -> NDArray[np.float64]:
    return counts / max(int(counts.sum()), 1)


def _quantile(values: NDArray[np.float64], cumulative: NDArray[np.float64], part: float) -> float:
    """The smallest value that at least `part` of the samples do not exceed."""
    at = int(np.searchsorted(cumulative, part - 1e-12))
    return float(values[min(at, len(values) - 1)])
