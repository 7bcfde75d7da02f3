"""One corpus of an audit: where its views come from."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from omni_diffusion.audit.contents import SCHEMAS, ContentCache, add_codes, read_contents
from omni_diffusion.audit.database import Database
from omni_diffusion.audit.files import CorpusFiles, Place
from omni_diffusion.audit.shards import shards_table
from omni_diffusion.audit.views import SEQUENCE_LEN, VIEWS, empty
from omni_diffusion.corpus.index import INDEX, shard_numbers
from omni_diffusion.corpus.manifest import Manifest, read_manifest
from omni_diffusion.corpus.sidecar import LENGTHS, sidecar_name
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.corpus.subset import shards_of
from omni_diffusion.errors import CorpusError, OmniError

Progress = Callable[[int, int], None]

_PARTS = 1_000_000
"""Fineness of sampling."""


class CorpusSource:
    """Makes the views of one corpus, each when it is first asked for.

    A corpus without `corpus.json` (its job has not finished) is audited as far as it goes: from
    the sidecars of the shards that are there.

    Args:
        root: folder or URL.
        schema: where its views are made: `main`, or a schema of its own.
        files: what DuckDB may read; the corpus's files are added.
        notes: what the user should know is appended here.

    Raises:
        CorpusError: there is no corpus.
    """

    def __init__(self, root: str, schema: str, files: CorpusFiles, notes: list[str]) -> None:
        self.storage = Storage(root)
        self.schema, self._files, self._notes = schema, files, notes
        self._made: set[str] = set()
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self.manifest: Manifest | None = None
        try:
            self.manifest = read_manifest(self.storage)
        except CorpusError as error:
            self._notes.append(str(error))
        #: Where the tars are: of a subset, in the corpus that it was chosen from.
        self.shards = shards_of(self.storage, self.manifest) if self.manifest else self.storage
        self._index = self._find_index()

    def close(self) -> None:
        """Remove temporary files."""
        if self._scratch:
            self._scratch.cleanup()

    def facts(self) -> dict[str, str]:
        """What the corpus says of itself, by name."""
        found = {"corpus": self.storage.root}
        if manifest := self.manifest:
            if manifest.base:
                found["refers to"] = manifest.base
            counts = ("shards", "rows", "rejects")
            found |= {name: str(getattr(manifest, name)) for name in counts}
            found |= {"digest": manifest.digest[:16], "recipe": manifest.recipe_digest[:16] or "-"}
            found |= {f"{n} tokens by": value for n, value in manifest.fingerprints.items()}
        return found

    def _find_index(self) -> list[str]:
        if self.storage.size(INDEX) is not None:
            return [INDEX]
        numbers = shard_numbers(self.storage, with_tar=False)
        if not numbers:
            reason = f"there is no corpus here: neither {INDEX} nor sidecars of shards"
            if any(entry.name.endswith(".tar") for entry in self.storage.list()):
                reason += "; media tars become a corpus with `omni-diffusion tokenize`"
            raise CorpusError(self.storage.root, reason)
        self._notes.append(f"no {INDEX}: answers are from the {len(numbers)} sidecars")
        return [sidecar_name(number) for number in numbers]

    def provide(self, view: str, database: Database) -> None:
        """Make a view that does not read tars, unless it is there."""
        if view in self._made:
            return
        if view == "samples":
            tokens = " + ".join(LENGTHS)
            sql = f"SELECT *, ({tokens})::INTEGER AS tokens, {SEQUENCE_LEN} AS sequence_len "
            database.create_view(self._name(view), sql + f"FROM {self._parquet(self._index)}")
        elif view == "rejects":
            database.create_view(self._name(view), self._rejects())
        elif view == "shards":
            self.provide("samples", database)
            sql = f"SELECT DISTINCT shard FROM {self._name('samples')}"
            numbers = {row["shard"] for row in database.rows(sql)}
            subset = self.shards is not self.storage
            table = shards_table(self.shards, numbers, subset=subset)
            database.create_table(self._name(view), table)
        elif view == "runs":
            database.create_table(self._name(view), self._runs())
        self._made.add(view)

    def provide_contents(
        self,
        database: Database,
        cache: ContentCache,
        sample: int | None,
        on_shard: Progress | None,
    ) -> None:
        """Make the views that read tars, unless they are there.

        Args:
            database: where they are made.
            cache: where tables of shards are kept.
            sample: read about so many samples of the corpus, spread evenly; None reads all.
            on_shard: called with (shards done, shards in all).
        """
        if "messages" in self._made:
            return
        self.provide("samples", database)
        samples = f"{self._name('samples')}{self._chosen(database, sample)}"
        digests = row_digests(database, samples)
        caches: dict[str, ContentCache] = {}
        for done, (shard, digest) in enumerate(digests.items()):
            caches[digest] = cache
            if not all(cache.holds(table, digest) for table in SCHEMAS):
                caches[digest] = self._scan(database, samples, shard, digest, cache)
            if on_shard:
                on_shard(done + 1, len(digests))
        for table in ("messages", "media"):
            urls = [self._url(kept, table, digest) for digest, kept in caches.items()]
            sql = f"SELECT * FROM read_parquet({_sql_list(urls)})" if urls else empty(table)
            database.create_view(self._name(table), sql)
        database.create_table(self._name("codes"), _all_codes(cache, caches))
        self._made |= set(SCHEMAS)

    def _url(self, cache: ContentCache, table: str, digest: str) -> str:
        name = cache.name(table, digest)
        return self._files.add(f"{self.schema}/{name}", Place(cache.storage, name))

    def _chosen(self, database: Database, sample: int | None) -> str:
        """A condition that keeps about `sample` rows; the same ones each time."""
        total = database.rows(f"SELECT count(*) AS n FROM {self._name('samples')}")[0]["n"]
        if sample is None or sample >= total:
            return ""
        part = max(1, round(_PARTS * sample / total))
        text = f"messages, media and codes are of about {sample} of {total} samples"
        self._notes.append(text)
        return f" WHERE hash(key) % {_PARTS} < {part}"

    def _scan(
        self, database: Database, samples: str, shard: int, digest: str, cache: ContentCache
    ) -> ContentCache:
        """Read one shard; what is incomplete is kept for this session only."""
        narrowed = f"{samples} {'AND' if ' WHERE ' in samples else 'WHERE'} shard = {shard}"
        sql = f'SELECT key, "offset", size, crc FROM {narrowed} ORDER BY "offset"'
        contents = read_contents(self.shards, shard, database.fetch(sql).read_all())
        if contents.faults:
            more = f" (and {len(contents.faults) - 1} more)" if len(contents.faults) > 1 else ""
            self._notes.append(f"left out of messages, media, codes: {contents.faults[0]}{more}")
            if self._scratch is None:
                self._scratch = tempfile.TemporaryDirectory(prefix="omni-diffusion-audit-")
            cache = ContentCache(Path(self._scratch.name))
        for table, rows in contents.tables().items():
            cache.keep(table, digest, rows)
        return cache

    def _rejects(self) -> str:
        """The reject files that are here: of a subset, none."""
        names = [e.name for e in self.storage.list("rejects") if e.name.endswith(".parquet")]
        if not names:
            return empty("rejects")
        number = r"regexp_extract(filename, '(\d+)\.parquet$', 1)::INTEGER AS shard"
        return f"SELECT * EXCLUDE (filename), {number} FROM {self._parquet(names, filename=True)}"

    def _runs(self) -> pa.Table:
        rows = []
        for entry in self.storage.list("runs"):
            if not entry.name.endswith(".json"):
                continue
            try:
                rows.append(_run(self.storage.read(entry.name)))
            except (ValueError, TypeError, AttributeError) as error:
                self._notes.append(f"{self.storage.path(entry.name)}: not a run file: {error}")
            except OmniError as error:
                self._notes.append(str(error))
        return pa.Table.from_pylist(rows, schema=_RUNS)

    def _parquet(self, names: list[str], *, filename: bool = False) -> str:
        urls = [self._files.add(f"{self.schema}/{n}", Place(self.storage, n)) for n in names]
        return f"read_parquet({_sql_list(urls)}, filename = {str(filename).lower()})"

    def _name(self, view: str) -> str:
        return f"{self.schema}.{view}"


def _all_codes(cache: ContentCache, caches: dict[str, ContentCache]) -> pa.Table:
    """Counts of codes of all shards; kept too where no shard was incomplete."""
    together = "\n".join(caches)
    if cache.holds("codes", together):
        return cache.read("codes", together)
    table = add_codes(kept.read("codes", digest) for digest, kept in caches.items())
    if all(kept is cache for kept in caches.values()):
        cache.keep("codes", together, table)
    return table


def row_digests(database: Database, samples: str = "samples") -> dict[int, str]:
    """For each shard a text that is the same for the same set of rows, in any order.

    Args:
        database: holds the view.
        samples: the view's name, perhaps with a condition.
    """
    # Numbers of members, and sums and xors of their hashes.
    sql = f"""SELECT shard, count(*) AS rows, sum(hash(key, "offset", size, crc)) AS total,
        bit_xor(hash(key, "offset", size, crc)) AS mixed FROM {samples}
        GROUP BY shard ORDER BY shard"""
    return {
        row["shard"]: "{shard} {rows} {total} {mixed}".format(**row) for row in database.rows(sql)
    }


def _sql_list(urls: list[str]) -> str:
    quoted = (url.replace("'", "''") for url in urls)
    return "[" + ", ".join(f"'{url}'" for url in quoted) + "]"


_RUNS = pa.schema(
    [
        pa.field(
            name,
            {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "TIMESTAMP": pa.timestamp("ms")}[kind],
        )
        for name, (kind, _) in VIEWS["runs"].columns.items()
    ]
)


def _run(data: bytes) -> dict[str, Any]:
    """A run file as a row; what it does not say is NULL."""
    from datetime import UTC, datetime

    run = json.loads(data)
    parts = run.get("partitions") or {}
    row = {name: run.get(name) for name in ("run", "job", "state", "host", "recipe_digest")}
    row |= {name: run.get(name) for name in ("rows", "rejects")}
    row |= {"partitions_total": parts.get("total"), "partitions_done": parts.get("done")}
    row |= {"partitions_failed": parts.get("given_up", parts.get("failed"))}
    for name in ("started", "updated"):
        moment = run.get(name)
        at = datetime.fromisoformat(moment) if moment else None
        row[name] = at and (at.astimezone(UTC).replace(tzinfo=None) if at.tzinfo else at)
    return row | {"json": json.dumps(run, sort_keys=True)}
