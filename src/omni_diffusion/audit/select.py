"""A subset by SQL: the query's keys become a corpus that refers to the same shards."""

from __future__ import annotations

import hashlib
import json
import os

import pyarrow as pa
import yaml

from omni_diffusion.audit.audit import Audit
from omni_diffusion.audit.guard import QueryError
from omni_diffusion.corpus.manifest import Manifest
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.corpus.subset import check_target, write_subset
from omni_diffusion.errors import CorpusError

RECIPE = "recipe.yaml"


def select(
    audit: Audit, sql: str, target: str | os.PathLike[str], *, source: str
) -> tuple[Manifest, int]:
    """Write the corpus of the samples whose keys a query returns.

    `recipe.yaml` of the new corpus says which query made it of which corpus.

    Args:
        audit: a session on `source`.
        sql: a SELECT with a column `key`, or with one column.
        target: folder or URL of the new corpus; empty, or made by the same query.
        source: folder or URL of the corpus that is chosen from.

    Returns:
        The new manifest, and how many keys stood twice in the answer.

    Raises:
        QueryError: the query cannot be run, or its answer has no column of keys.
        CorpusError: `source` is not finished, a key is not in it, or `target` is taken.
    """
    if audit.corpus.manifest is None:
        raise CorpusError(source, "has no corpus.json: only a finished corpus can be chosen from")
    recipe = {"select": {"corpus": str(source), "digest": audit.corpus.manifest.digest, "sql": sql}}
    canonical = json.dumps(recipe["select"] | {"corpus": ""}, sort_keys=True)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    check_target(Storage(target), digest)
    keys = _keys(audit.query(sql))
    manifest = write_subset(source, keys, target, recipe_digest=digest)
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100)
    Storage(target).publish_bytes(text.encode(), RECIPE, replace=True)
    return manifest, len(keys) - manifest.rows


def _keys(reader: pa.RecordBatchReader) -> pa.ChunkedArray:
    names = reader.schema.names
    name = "key" if "key" in names else names[0]
    kind = reader.schema.field(name).type
    if ("key" not in names and len(names) > 1) or not (
        pa.types.is_string(kind) or pa.types.is_large_string(kind)
    ):
        found = ", ".join(f"{field.name} {field.type}" for field in reader.schema)
        raise QueryError(f"the query must return a column `key` of samples; it returns {found}")
    column = reader.read_all()[name].cast(pa.string())
    if column.null_count:
        raise QueryError(f"the query returned {column.null_count} keys that are NULL")
    return column
