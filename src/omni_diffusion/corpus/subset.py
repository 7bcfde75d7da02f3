"""A subset: some samples of a corpus, as a corpus of its own that copies no shard.

It is a folder with `corpus.json`, `index.parquet` and `recipe.yaml`. Its index holds the chosen
rows of the other corpus's index as they are, and `base` of its `corpus.json` says where the shards
are: a URL, an absolute path, or a path relative to the subset's own folder, so that a tree of
corpora can be moved. A subset of a subset refers to the shards' corpus itself.

Its `digest` is the SHA-256 of (shard int32, offset int64, crc uint32), little-endian, of every row
in order: equal for equal samples, whatever query chose them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from omni_diffusion.corpus.index import (
    INDEX,
    SIDECARS,
    file_digest,
    lengths_of,
    write_row_groups,
)
from omni_diffusion.corpus.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from omni_diffusion.corpus.sidecar import LENGTHS, check_schema, open_parquet
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError

_PLACE = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("crc", "<u4")])


def shards_of(storage: Storage, manifest: Manifest) -> Storage:
    """Where the tars and sidecars of a corpus are: with it, or for a subset with its base."""
    if not manifest.base:
        return storage
    if "://" in manifest.base or not storage.is_local:
        return Storage(manifest.base)
    return Storage(os.path.normpath(Path(storage.root).resolve() / manifest.base))


def write_subset(
    source: str | os.PathLike[str],
    keys: pa.Array | pa.ChunkedArray,
    target: str | os.PathLike[str],
    *,
    recipe_digest: str = "",
) -> Manifest:
    """Write the corpus of the samples that have some keys.

    Args:
        source: folder or URL of a finished corpus, or of a subset.
        keys: strings; their order does not matter, and one may stand twice.
        target: folder or URL; empty, or a subset made by the same recipe.
        recipe_digest: of what chose the keys.

    Returns:
        The manifest that was written.

    Raises:
        CorpusError: no finished corpus, no keys, a key that no sample has, or a target that
            something else made.
    """
    corpus, subset = Storage(source), Storage(target)
    manifest = read_manifest(corpus)
    check_target(subset, recipe_digest)
    chosen = _Chosen(keys)
    with corpus.open(INDEX) as file, open_parquet(file, corpus.path(INDEX)) as index:
        check_schema(index.schema_arrow, corpus.path(INDEX))
        crcs = sidecar_crcs(index, corpus.path(INDEX))
        with subset.temporary(INDEX) as path:
            write_row_groups(
                chosen.rows(index, corpus.root), path, lambda: {n: crcs[n] for n in chosen.shards}
            )
            written = replace(
                manifest,
                recipe_digest=recipe_digest,
                shards=len(chosen.shards),
                rows=chosen.count,
                rejects=0,
                lengths={name: chosen.lengths[name] for name in LENGTHS},
                digest=chosen.digest.hexdigest(),
                index_digest=file_digest(path),
                base=_base(shards_of(corpus, manifest), subset),
            )
            subset.publish(path, INDEX, replace=True)
    write_manifest(subset, written)
    return written


def check_target(subset: Storage, recipe_digest: str) -> None:
    """Refuse to write over what another recipe, or no selection at all, has made.

    Raises:
        CorpusError: names the target.
    """
    if subset.size(MANIFEST) is not None:
        there = read_manifest(subset)
        if not there.base or there.recipe_digest != recipe_digest:
            raise CorpusError(subset.root, "holds another corpus; choose another folder")
    elif subset.list():
        raise CorpusError(subset.root, "is not empty; choose another folder")


def sidecar_crcs(index: pq.ParquetFile, path: object) -> dict[int, int]:
    """CRC-32 of every sidecar that an index was made from, by shard number.

    Raises:
        CorpusError: the index does not say.
    """
    try:
        crcs: dict[str, int] = json.loads(index.metadata.metadata[SIDECARS.encode()])
        return {int(number): crc for number, crc in crcs.items()}
    except (KeyError, TypeError, ValueError):
        reason = "does not say which sidecars it was made from; run verify --rebuild-index"
        raise CorpusError(path, reason) from None


def places_of(table: pa.Table) -> bytes:
    """What a subset's digest is made of: shard, offset and crc of each row."""
    places = np.empty(table.num_rows, _PLACE)
    for name in ("shard", "offset", "crc"):
        places[name] = table[name].to_numpy()
    return places.tobytes()


class _Chosen:
    """Picks rows by key, and counts what it picks."""

    def __init__(self, keys: pa.Array | pa.ChunkedArray) -> None:
        self._keys = pc.unique(keys)
        self.count = 0
        self.shards: list[int] = []
        self.lengths: Counter[str] = Counter()
        self.digest = hashlib.sha256()

    def rows(self, index: pq.ParquetFile, root: str) -> Iterator[pa.Table]:
        """The rows of an index that have one of the keys.

        Raises:
            CorpusError: there are no keys, or no sample has one of them.
        """
        if not len(self._keys):
            raise CorpusError(root, "no sample is chosen: the query returned no key")
        known = index.read(columns=["key"])["key"]
        # Asked once: a table of the chosen keys is made at every call, which for many of them
        # costs more than all the rest.
        chosen = pc.is_in(known, value_set=self._keys)
        if pc.sum(chosen).as_py() < len(self._keys):
            odd = self._keys.filter(pc.invert(pc.is_in(self._keys, value_set=known)))
            more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
            raise CorpusError(root, f"no sample has the key {odd[0].as_py()!r}{more}")
        del known
        first = 0
        for group in range(index.num_row_groups):
            size = index.metadata.row_group(group).num_rows
            wanted = chosen.slice(first, size)
            first += size
            if not pc.any(wanted).as_py():
                continue
            table = index.read_row_group(group).replace_schema_metadata(None).filter(wanted)
            self.count += table.num_rows
            self.lengths.update(lengths_of(table))
            self.digest.update(places_of(table))
            self.shards = sorted({*self.shards, *pc.unique(table["shard"]).to_pylist()})
            yield table


def _base(shards: Storage, subset: Storage) -> str:
    if not shards.is_local:
        return shards.root
    folder = Path(shards.root).resolve()
    if not subset.is_local:
        return str(folder)
    return os.path.relpath(folder, Path(subset.root).resolve())
