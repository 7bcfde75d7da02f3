"""DuckDB, shut in: one connection in memory that reaches the files of a corpus and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow as pa

from omni_diffusion.audit.answer import printable
from omni_diffusion.audit.files import URL, CorpusFiles
from omni_diffusion.audit.guard import Guard, QueryError
from omni_diffusion.audit.views import VIEWS
from omni_diffusion.errors import OmniError

Parameters = Mapping[str, Any]


_VIEWS = f"views: {', '.join(VIEWS)} (--views says what is in them)"


class Database:
    """A connection with every door but one closed.

    Nothing outside `files` can be read, nothing at all can be written, no extension is loaded and
    no setting can be changed back. Intermediate results larger than the memory go to a temporary
    folder.

    Args:
        files: what it may read.
        memory_limit: of intermediate results, as DuckDB writes it (`2GB`).
        threads: how many it uses; all cores by default.

    Raises:
        QueryError: DuckDB does not understand the memory limit.
    """

    def __init__(self, files: CorpusFiles, memory_limit: str, threads: int | None = None) -> None:
        self._files = files
        self._spill = tempfile.TemporaryDirectory(prefix="omni-diffusion-audit-")
        limits: dict[str, Any] = {"memory_limit": memory_limit}
        if threads:
            limits["threads"] = threads
        try:
            self.connection = _shut_in(files, temp_directory=self._spill.name, **limits)
        except duckdb.Error as error:
            raise QueryError(f"DuckDB does not start: {_first_line(error)}") from None
        #: Only parses: a result that is still being read must not be disturbed by it.
        self._parser = _shut_in(CorpusFiles(), threads=1)
        self._guard = Guard(self._parser, frozenset(VIEWS))

    def close(self) -> None:
        """Release files and memory."""
        self.connection.close()
        self._parser.close()
        self._spill.cleanup()

    def create_view(self, name: str, sql: str) -> None:
        """Make a view; `name` may have a schema."""
        self._run(f"CREATE VIEW {name} AS {sql}")

    def create_table(self, name: str, table: pa.Table) -> None:
        """Copy a small table into the database."""
        self.connection.register("_arrow", table)
        try:
            self._run(f"CREATE TABLE {name} AS SELECT * FROM _arrow")
        finally:
            self.connection.unregister("_arrow")

    def views_in(self, sql: str) -> set[str]:
        """Names of views that a statement reads, lower case and without schema.

        Raises:
            QueryError: not one SELECT statement, one that does more than read the views, or a
                syntax error.
        """
        try:
            return self._guard.views_of(sql)
        except QueryError as error:
            raise QueryError(f"{error}\n{_VIEWS}") from None
        except duckdb.Error as error:
            raise self._query_error(error) from None

    def fetch(self, sql: str, parameters: Parameters | None = None) -> pa.RecordBatchReader:
        """Run one statement; its rows are computed while they are read.

        Raises:
            QueryError: the statement cannot be run.
            CorpusError: a file that it needs is damaged or gone.
        """
        try:
            relation = self.connection.sql(sql, params=dict(parameters or {}))
            reader = relation.to_arrow_reader()
            return pa.RecordBatchReader.from_batches(reader.schema, self._batches(reader))
        except duckdb.BinderException:
            # The same error again, but with the place in the statement.
            self._run(sql, parameters)
            raise
        except (duckdb.Error, pa.ArrowException) as error:
            raise self._query_error(error) from None

    def rows(self, sql: str, parameters: Parameters | None = None) -> list[dict[str, Any]]:
        """All rows of a small result as dictionaries; raises what `fetch` raises."""
        rows: list[dict[str, Any]] = self.fetch(sql, parameters).read_all().to_pylist()
        return rows

    def explain(self, sql: str, parameters: Parameters | None = None) -> str:
        """Run one statement and draw its plan with times and row counts."""
        try:
            self.connection.execute(f"EXPLAIN ANALYZE {sql}", dict(parameters or {}))
            return "\n".join(str(row[1]) for row in self.connection.fetchall())
        except duckdb.Error as error:
            raise self._query_error(error) from None

    def _run(self, sql: str, parameters: Parameters | None = None) -> None:
        try:
            self.connection.execute(sql, dict(parameters or {}))
        except duckdb.Error as error:
            raise self._query_error(error) from None

    def _batches(self, reader: pa.RecordBatchReader) -> Any:
        while True:
            try:
                yield reader.read_next_batch()
            except StopIteration:
                return
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                raise self._query_error(error) from None

    def _query_error(self, error: Exception) -> OmniError:
        """What to tell the user: what went wrong in a store, or DuckDB's words and our views."""
        if self._files.fault:
            fault, self._files.fault = self._files.fault, None
            return fault
        text = str(error).strip()
        if "Traceback" in text:
            text = text.splitlines()[-1]
        for url, place in self._files.places.items():
            text = text.replace(url, str(place))
        if isinstance(
            error, duckdb.ParserException | duckdb.CatalogException | duckdb.BinderException
        ):
            text += f"\n{_VIEWS}"
        return QueryError(printable(text))  # it may quote a caption


def _shut_in(files: CorpusFiles, **settings: Any) -> duckdb.DuckDBPyConnection:
    """A connection that reads `files` and nothing else, and whose settings stay as they are."""
    nothing_loaded = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
        "python_enable_replacements": "false",
    }
    connection = duckdb.connect(config=nothing_loaded | settings)
    connection.register_filesystem(files)
    for setting in (
        f"allowed_directories = ['{URL}']",
        "enable_external_access = false",
        "TimeZone = 'UTC'",
        "enable_progress_bar = false",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")
    return connection


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
