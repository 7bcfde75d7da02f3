"""A session: one corpus, or two to compare, and questions in SQL.

with Audit("corpus") as audit:
    audit.query("SELECT task, count(*) FROM samples GROUP BY task").read_all()
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from omni_diffusion.audit.contents import ContentCache
from omni_diffusion.audit.database import Database, Parameters
from omni_diffusion.audit.files import CorpusFiles
from omni_diffusion.audit.guard import QueryError
from omni_diffusion.audit.source import CorpusSource, Progress, row_digests
from omni_diffusion.audit.views import VIEWS, empty

OTHER = "other"
"""Schema of the views of the corpus that is compared with."""

CACHE = Path("~/.cache/omni-diffusion/audit")
MEMORY_LIMIT = "2GB"


class Audit:
    """Views of a corpus, and of another one under `other.` if there is one.

    Views are made when a query first mentions them: those of the tars (`messages`, `media`,
    `codes`) then read every shard once, or a part of the samples.

    Args:
        root: folder or URL of a corpus, a subset, or an unfinished corpus.
        against: a second one.
        weights: shares of the mixture as configured, by the name of a task, source or language.
        batches: the table of the `batches` view: what is trained when is known to `training`,
            and the caller brings both together.
        cache: folder for what was read from tars.
        sample: read about so many samples from the tars; None reads all.
        memory_limit: of intermediate results.
        threads: of DuckDB; all cores by default.
        on_shard: called with (shards done, shards in all) while tars are read.

    Raises:
        CorpusError: there is no corpus.

    Attributes:
        notes: what the user should know of the answers; grows with questions.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        against: str | os.PathLike[str] | None = None,
        weights: Mapping[str, float] | None = None,
        batches: pa.Table | None = None,
        cache: Path = CACHE,
        sample: int | None = None,
        memory_limit: str = MEMORY_LIMIT,
        threads: int | None = None,
        on_shard: Progress | None = None,
    ) -> None:
        self.notes: list[str] = []
        self._weights = dict(weights or {})
        self._cache = ContentCache(cache.expanduser())
        self._sample, self._on_shard = sample, on_shard
        files = CorpusFiles()
        self.corpus = CorpusSource(os.fspath(root), "main", files, self.notes)
        self._sources = [self.corpus]
        if against is not None:
            self._sources.append(CorpusSource(os.fspath(against), OTHER, files, self.notes))
        self._database = Database(files, memory_limit, threads)
        if against is not None:
            self._database.connection.execute(f"CREATE SCHEMA {OTHER}")
        self._made: dict[str, Callable[[], pa.Table | None]] = {
            "weights": self._weights_table,
            "batches": lambda: batches,
        }
        self._has: set[str] = set()

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def compares(self) -> bool:
        """Whether there is a second corpus."""
        return len(self._sources) > 1

    def close(self) -> None:
        """Release files, memory and temporary folders."""
        self._database.close()
        for source in self._sources:
            source.close()

    def query(self, sql: str, parameters: Parameters | None = None) -> pa.RecordBatchReader:
        """Run one SELECT statement; rows are computed while they are read.

        Args:
            sql: the statement. `DESCRIBE`, `SUMMARIZE`, `FROM ...` and `WITH ...` are such too.
            parameters: values of `$name` in it.

        Raises:
            QueryError: it is not one SELECT statement, or cannot be run.
            CorpusError: a file that it needs is damaged or gone.
        """
        self._provide(sql)
        return self._database.fetch(sql, parameters)

    def rows(self, sql: str, parameters: Parameters | None = None) -> list[dict[str, Any]]:
        """All rows of a small answer as dictionaries; raises what `query` raises."""
        self._provide(sql)
        return self._database.rows(sql, parameters)

    def explain(self, sql: str, parameters: Parameters | None = None) -> str:
        """Run one SELECT statement and draw its plan with times and row counts.

        Raises:
            QueryError: it is not one SELECT statement, or cannot be run.
        """
        self._provide(sql)
        return self._database.explain(sql, parameters)

    def pair(self) -> list[tuple[str, str, str]]:
        """What the two corpora say of themselves: (what, of this one, of the other one).

        Raises:
            QueryError: there is no second corpus.
        """
        if not self.compares:
            raise QueryError("there is no second corpus to compare with: --against OTHER")
        one, two = (source.facts() for source in self._sources)
        return [(n, one.get(n, "-"), two.get(n, "-")) for n in dict.fromkeys([*one, *two])]

    def row_digests(self) -> dict[int, str]:
        """What names the cached tables of each shard while all samples are read."""
        self.corpus.provide("samples", self._database)
        return row_digests(self._database)

    def _provide(self, sql: str) -> None:
        """Make the views that a statement reads, unless they are there."""
        mentioned = self._database.views_in(sql)
        for view in (name for name in VIEWS if name in mentioned):
            if view in self._made:
                self._make(view)
                continue
            for source in self._sources:
                if VIEWS[view].reads_tars:
                    source.provide_contents(
                        self._database, self._cache, self._sample, self._on_shard
                    )
                else:
                    source.provide(view, self._database)

    def _make(self, view: str) -> None:
        """Make a view that no corpus provides."""
        if view in self._has:
            return
        if (table := self._made[view]()) is None:
            self._database.create_view(view, empty(view))
            if view == "batches":
                self.notes.append("batches is empty: name a training run with --run")
        else:
            self._database.create_table(view, table)
        self._has.add(view)

    def _weights_table(self) -> pa.Table | None:
        total = sum(self._weights.values())
        if total <= 0:
            return None
        shares = [weight / total for weight in self._weights.values()]
        return pa.table({"name": list(self._weights), "share": shares})
