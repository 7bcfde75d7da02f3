"""The `shards` view: what lies in the folder against what the sidecars say of it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from omni_diffusion.corpus.sidecar import (
    ShardInfo,
    open_parquet,
    shard_info,
    sidecar_name,
    tar_name,
)
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError

_FOOTER_BYTES = 64 * 1024
"""The end of a sidecar that holds its footer; larger ones are read whole."""

_FILE = re.compile(r"shards/(\d{5,})\.(?:tar|parquet)")

_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int32()),
        *(pa.field(name, pa.int64()) for name in ("tar_bytes", "sidecar_bytes")),
        *(pa.field(f"declared_{name}", pa.int64()) for name in ("bytes", "rows", "rejects")),
        *(pa.field(name, pa.string()) for name in ("digest", "fingerprints", "fault")),
        pa.field("subset", pa.bool_()),
    ]
)


def shards_table(storage: Storage, numbers: Iterable[int], *, subset: bool) -> pa.Table:
    """One row a shard, whatever is missing of it.

    Args:
        storage: where the tars are.
        numbers: those that the index speaks of. Others that are in the folder are added.
        subset: whether the corpus is a subset: it takes only some samples of each shard, and
            shards that it does not speak of are none of its business.

    Raises:
        StorageError: the place cannot be listed.
    """
    sizes = {entry.name: entry.size for entry in storage.list("shards")}

    def row(number: int) -> dict[str, Any]:
        tar, sidecar = sizes.get(tar_name(number)), sizes.get(sidecar_name(number))
        found: dict[str, Any] = {"shard": number, "tar_bytes": tar, "sidecar_bytes": sidecar}
        found |= {"subset": subset}
        if sidecar is None:
            return found
        try:
            info = _read_footer(storage, number, sidecar)
        except CorpusError as error:
            return found | {"fault": error.reason}
        found |= {"declared_bytes": info.size, "declared_rows": info.rows}
        found |= {"declared_rejects": info.rejects, "digest": info.digest}
        return found | {"fingerprints": json.dumps(dict(info.fingerprints), sort_keys=True)}

    wanted = set(numbers)
    if not subset:
        wanted |= {int(match[1]) for name in sizes if (match := _FILE.fullmatch(name))}
    with ThreadPoolExecutor(16) as pool:
        return pa.Table.from_pylist(list(pool.map(row, sorted(wanted))), schema=_SCHEMA)


def _read_footer(storage: Storage, number: int, size: int) -> ShardInfo:
    """What a sidecar says of its shard: from its last bytes, or where they do not do, from all."""
    name = sidecar_name(number)
    path = storage.path(name)
    if size > _FOOTER_BYTES:
        with contextlib.suppress(CorpusError):
            return _info_of(storage.read(name, size - _FOOTER_BYTES, size), path)
    return _info_of(storage.read(name), path)


def _info_of(data: bytes, path: str) -> ShardInfo:
    with open_parquet(pa.BufferReader(data), path) as file:
        return shard_info(file.metadata.metadata or {}, path)
