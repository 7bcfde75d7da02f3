"""Which SQL an audit runs: one SELECT over the views, and functions that only compute.

DuckDB is shut in already (`database`): no file outside the corpus, no setting, no extension. This
is the second lock, on the statement itself, because a SELECT of DuckDB 2.0 can do more than select:
a CTE may be an INSERT or a COPY, and functions such as `enable_profiling` write files. So the
parsed statement is walked, and what is not known to be harmless is refused before it is bound.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any

import duckdb

from omni_diffusion.errors import OmniError

QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
"""Kinds of query that read. Others are INSERT_, UPDATE_, DELETE_, COPY_QUERY_NODE and the like."""

TABLE_FUNCTIONS = frozenset(
    {"generate_series", "json_each", "json_tree", "range", "repeat", "unnest"}
)
"""Functions that may stand behind FROM: they compute rows from their arguments."""

SCALAR_FUNCTIONS_REFUSED = frozenset(
    {
        *("getenv", "current_setting", "getvariable", "write_log", "json_serialize_plan"),
        *("nextval", "setval", "currval", "sleep_ms", "pg_sleep"),
    }
)
"""Functions that speak of the machine, change the session, bind other SQL or only wait."""

SCHEMAS = frozenset({"", "main", "other"})

_NOWHERE = 2**63
"""DuckDB's place for what has none is the largest number of 64 bits."""


class QueryError(OmniError):
    """A question that cannot be answered: its SQL is wrong, or asks for what is not allowed."""


class Guard:
    """Parses statements, and says what they read.

    Args:
        connection: used for nothing but parsing, so that it disturbs no result.
        views: names that may be read, lower case.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, views: frozenset[str]) -> None:
        self._connection, self._views = connection, views

    def views_of(self, sql: str) -> set[str]:
        """Views that a statement reads, lower case and without schema.

        Raises:
            QueryError: not one SELECT statement, or one that does more than read the views.
            duckdb.Error: a syntax error.
        """
        if not sql.isascii():
            _check_text(sql)
        statements = duckdb.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            kinds = ", ".join(s.type.name for s in statements) or "nothing"
            raise QueryError(
                f"expected one SELECT statement, found {kinds}. A corpus is only read: files are "
                "written with -o, plans shown with --explain, PIVOT needs its values (`IN (...)`)"
            )
        [(text,)] = self._connection.execute(
            "SELECT json_serialize_sql($sql)", {"sql": sql}
        ).fetchall()
        tree = json.loads(text)
        if tree.get("error"):
            raise QueryError(f"this statement is not understood: {tree.get('error_message')}")
        nodes = list(_nodes(tree["statements"]))
        tables = {
            str(n["key"]).lower() for n in nodes if isinstance(n.get("value"), dict) and "key" in n
        }
        found = set()
        for node in nodes:
            if fault := self._fault(node, tables):
                raise QueryError(fault + _place(sql, node))
            if node.get("type") == "BASE_TABLE":
                found.add(str(node["table_name"]).lower())
        return found & self._views

    def _fault(self, node: dict[str, Any], tables: set[str]) -> str | None:
        """What is wrong with one node of the tree, seen alone."""
        kind = str(node.get("type", ""))
        if kind.endswith("_NODE") and kind not in QUERY_NODES:
            what = kind.removesuffix("_NODE").removesuffix("_QUERY")
            return f"a corpus is only read, and this is {what}"
        if kind == "BASE_TABLE":
            name = str(node["table_name"]).lower()
            schema, catalog = str(node.get("schema_name", "")), node.get("catalog_name", "")
            known = name in self._views and schema.lower() in SCHEMAS and not catalog
            if not known and not (name in tables and not schema and not catalog):
                whole = ".".join(p for p in (catalog, schema, str(node["table_name"])) if p)
                close = difflib.get_close_matches(name, self._views, 1)
                return f"there is no view {whole!r}" + (
                    f"; did you mean {close[0]}?" if close else ""
                )
        elif kind == "TABLE_FUNCTION":
            name = str(node["function"].get("function_name", "")).lower()
            if name not in TABLE_FUNCTIONS:
                allowed = ", ".join(sorted(TABLE_FUNCTIONS))
                return (
                    f"{name}() is refused: an audit reads the corpus and nothing else "
                    f"(functions behind FROM: {allowed})"
                )
        elif node.get("class") == "FUNCTION":
            name = str(node.get("function_name", "")).lower()
            if name in SCALAR_FUNCTIONS_REFUSED or name.startswith("__internal"):
                return f"{name}() is refused: an audit reads the corpus and nothing else"
        return None


def _check_text(sql: str) -> None:
    try:
        sql.encode()
    except UnicodeEncodeError as error:
        reason = f"holds {sql[error.start]!r}, which is no Unicode character"
        raise QueryError(f"the statement {reason}") from None


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects of a parsed statement."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _place(sql: str, node: dict[str, Any]) -> str:
    """The line of the statement where a node stands, and a mark below it."""
    at = node.get("query_location", _NOWHERE)
    if at >= _NOWHERE:
        at = node.get("function", {}).get("query_location", _NOWHERE)
    data = sql.encode()
    if at >= len(data):
        return ""
    start = data.rfind(b"\n", 0, at) + 1
    line = data[start:].split(b"\n", 1)[0].decode()
    number = data.count(b"\n", 0, at) + 1
    before = f"LINE {number}: "
    mark = " " * (len(before) + len(data[start:at].decode()))
    return f"\n\n{before}{line}\n{mark}^"
