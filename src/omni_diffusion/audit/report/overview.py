"""The head of a report: what the corpus is, in a few numbers, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omni_diffusion.audit.audit import Audit
from omni_diffusion.audit.named import named_queries
from omni_diffusion.audit.report.text import (
    amount,
    brief,
    duration,
    percent,
    shortened,
    size,
)

CODES_A_SECOND = 12.5

_TOTALS = """
SELECT count(*) AS samples, coalesce(sum(tokens), 0)::BIGINT AS tokens,
    coalesce(sum(supervised_len), 0)::BIGINT AS supervised,
    coalesce(sum(text_len), 0)::BIGINT AS text,
    coalesce(sum(image256_len::BIGINT + image512_len), 0)::BIGINT AS pictures,
    coalesce(sum(speech_len), 0)::BIGINT AS speech,
    coalesce(sum(features_len), 0)::BIGINT AS features,
    count(DISTINCT task) AS tasks, count(DISTINCT source) AS sources,
    count(DISTINCT language) AS languages, count(DISTINCT voice) AS voices,
    coalesce(max(sequence_len), 0) AS longest, coalesce(sum(duration_s), 0) AS duration_s,
    coalesce(sum(size), 0)::BIGINT AS bytes, count(DISTINCT shard) AS shards
FROM samples"""

_EXAMPLES = """
SELECT stage, reason, count(*) AS records,
    min({'key': key, 'detail': detail}, 3) AS examples
FROM rejects GROUP BY stage, reason ORDER BY records DESC, stage, reason LIMIT 12"""

_RUNS = """
SELECT run, job, state, started, updated,
    partitions_done || ' of ' || partitions_total AS partitions, rows AS samples, rejects
FROM runs ORDER BY run DESC LIMIT 8"""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number that stands large at the head of the page."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Overview:
    """See the module.

    Attributes:
        figures: the numbers.
        parts: of all tokens: name, share, and the number in words.
        problems: shards that are not whole, in words.
        shards: how many there are.
        longest: ids of the longest sample.
    """

    figures: list[Figure]
    parts: list[tuple[str, float, str]]
    problems: list[str]
    shards: int
    longest: int


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why records were rejected, with examples: key and message."""

    stage: str
    reason: str
    records: int
    examples: list[tuple[str, str]]


def overview(audit: Audit) -> Overview:
    """Totals, and the health of shards.

    Raises:
        CorpusError: the index cannot be read.
    """
    totals = audit.rows(_TOTALS)[0]
    rejects = audit.rows("SELECT count(*) AS n FROM rejects")[0]["n"]
    health = audit.rows(named_queries()["shard_health"].sql)
    ill = [row for row in health if row["problem"]]
    problems = [f"shard {row['shard']}: {row['problem']}" for row in ill]
    return Overview(
        figures=_figures(totals, rejects, len(health), len(ill)),
        parts=_parts(totals),
        problems=problems,
        shards=len(health),
        longest=totals["longest"],
    )


def _figures(totals: Mapping[str, Any], rejects: int, shards: int, ill: int) -> list[Figure]:
    def count(n: int, one: str, many: str) -> str:
        return f"{n:,} {one if n == 1 else many}"

    samples, tokens = totals["samples"], totals["tokens"]
    supervised = f"{percent(totals['supervised'] / tokens)} supervised" if tokens else ""
    about = f"{count(totals['tasks'], 'task', 'tasks')}, "
    about += count(totals["sources"], "source", "sources")
    figures = [
        Figure(name="samples", value=amount(samples), note=about),
    ]
    if tokens or not samples:
        figures.append(Figure(name="tokens", value=amount(tokens), note=supervised))
    if pictures := totals["pictures"]:
        figures.append(Figure(name="picture codes", value=amount(pictures)))
    if seconds := totals["speech"] / CODES_A_SECOND or (0 if tokens else totals["duration_s"]):
        voices = count(totals["voices"], "voice", "voices")
        figures.append(
            Figure(name="speech", value=duration(seconds), note=voices if totals["voices"] else "")
        )
    share = rejects / (samples + rejects) if samples + rejects else 0.0
    figures.append(
        Figure(name="rejects", value=amount(rejects), note=f"{percent(share)} of records")
    )
    state = "all whole" if not ill else f"{ill:,} with a problem"
    note = f"{state}, {size(totals['bytes'])}"
    figures.append(Figure(name="shards", value=amount(shards), note=note))
    return figures


def _parts(totals: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    names = {"text": "text", "pictures": "pictures", "speech": "speech"}
    names |= {"features": "continuous speech"}
    all_tokens = sum(totals[name] for name in names)
    return [
        (
            shown,
            totals[name] / all_tokens,
            f"{amount(totals[name])} · {percent(totals[name] / all_tokens)}",
        )
        for name, shown in names.items()
        if totals[name]
    ]


def reasons(audit: Audit) -> list[Reason]:
    """The commonest reasons of rejects, with three examples each."""
    return [
        Reason(
            stage=brief(row["stage"], 60),
            reason=brief(row["reason"], 160),
            records=row["records"],
            examples=[
                (brief(e["key"], 160), shortened(e["detail"], 400)[0]) for e in row["examples"]
            ],
        )
        for row in audit.rows(_EXAMPLES)
    ]


def makers(audit: Audit) -> list[tuple[str, str]]:
    """Fingerprints and digests: what made the corpus, and what identifies it."""
    manifest = audit.corpus.manifest
    if manifest is None:
        return []
    named = {f"{kind} tokenizer": name for kind, name in sorted(manifest.fingerprints.items())}
    named |= {"recipe": manifest.recipe_digest, "corpus": manifest.digest, "base": manifest.base}
    return [(name, value) for name, value in named.items() if value]


def runs(audit: Audit) -> list[dict[str, Any]]:
    """The last runs that wrote into the corpus."""
    return audit.rows(_RUNS)


def fingerprints(audit: Audit) -> dict[int, dict[str, str]]:
    """What made the tokens of each shard; a shard whose sidecar is gone has the corpus's."""
    manifest = audit.corpus.manifest
    common = dict(manifest.fingerprints) if manifest else {}
    found = audit.rows("SELECT shard, fingerprints FROM shards")
    return {
        row["shard"]: json.loads(row["fingerprints"]) if row["fingerprints"] else common
        for row in found
    }
