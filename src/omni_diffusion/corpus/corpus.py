"""A finished corpus: samples by row or key, every read checked against its CRC."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from omni_diffusion.corpus.cache import ShardCache
from omni_diffusion.corpus.index import Index
from omni_diffusion.corpus.manifest import NOT_TOKENS, Manifest, read_manifest
from omni_diffusion.corpus.sample import Sample, decode_sample
from omni_diffusion.corpus.shard import ShardReader, short_read
from omni_diffusion.corpus.sidecar import tar_name
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.corpus.subset import shards_of
from omni_diffusion.errors import CorpusError

_OPEN_SHARDS = 512
"""Memory maps held at once; far below the usual limit of open files."""


class Corpus:
    """Random access to a token corpus on this machine or in an object store.

    Args:
        root: folder or URL of the corpus.
        cache: where to keep shards of a remote corpus. Without one, every sample of a remote
            corpus is a ranged request of its own: right for looking at a few, wrong for a pass.

    Raises:
        CorpusError: there is no finished corpus, or its index does not fit its manifest.

    Attributes:
        manifest: the corpus as a whole.
        index: its rows.
        shards: where its tars are: with it, or for a subset in the corpus that it was chosen from.
    """

    def __init__(self, root: str | os.PathLike[str], cache: ShardCache | None = None) -> None:
        self.storage = Storage(root)
        self.manifest: Manifest = read_manifest(self.storage)
        if self.manifest.is_media:
            raise CorpusError(self.storage.root, NOT_TOKENS)
        self.shards = shards_of(self.storage, self.manifest)
        self.index = Index(self.storage)
        if len(self.index) != self.manifest.rows:
            reason = f"index has {len(self.index)} rows, corpus.json says {self.manifest.rows}"
            raise CorpusError(self.storage.root, f"{reason}; run verify --rebuild-index")
        self._cache = cache
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[Sample]:
        """All samples in the order of the index."""
        return self.samples(np.arange(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        """A corpus can be handed to another process, which opens its own maps."""
        return {**self.__dict__, "_readers": OrderedDict()}

    def sample(self, row: int) -> Sample:
        """One sample by its row.

        Raises:
            CorpusError: its bytes are not the ones that the index speaks of.
        """
        return next(self.samples(np.array([row])))

    def get(self, key: str) -> Sample:
        """One sample by its key.

        Raises:
            CorpusError: no sample has this key, or its bytes are damaged.
        """
        try:
            return self.sample(self.index.find(key))
        except KeyError:
            raise CorpusError(self.storage.root, f"no sample has the key {key!r}") from None

    def samples(self, rows: np.ndarray[Any, Any]) -> Iterator[Sample]:
        """Samples of some rows, in the order given, as views of the shards.

        Args:
            rows: int [n].

        Raises:
            CorpusError: bytes that are not the ones that the index speaks of.
        """
        index = self.index
        places = zip(
            index.keys(rows),
            index.shard[rows].tolist(),
            index.offset[rows].tolist(),
            index.size[rows].tolist(),
            index.crc[rows].tolist(),
            strict=True,
        )
        return self._read(places)

    def _read(self, places: Iterable[tuple[str, int, int, int, int]]) -> Iterator[Sample]:
        if self.shards.is_local or self._cache:
            for key, shard, offset, size, crc in places:
                reader = self._readers.get(shard) or self._open(shard)
                yield decode_sample(key, reader.payload(offset, size), reader.name, crc)
            return
        for key, shard, offset, size, crc in places:
            name = tar_name(shard)
            data = self.shards.read(name, offset, offset + size)
            if len(data) != size:
                raise short_read(self.shards.path(name), offset, size)
            yield decode_sample(key, data, self.shards.path(name), crc)

    def _open(self, shard: int) -> ShardReader:
        name = tar_name(shard)
        if self._cache:
            self._readers[shard] = self._cache.reader(self.shards, name)
        else:
            self._readers[shard] = ShardReader(self.shards.path(name))
        while len(self._readers) > 1 and self._too_much_is_open():
            self._readers.popitem(last=False)
        return self._readers[shard]

    def _too_much_is_open(self) -> bool:
        """A dropped copy takes its room on the disk for as long as it is mapped."""
        if len(self._readers) > _OPEN_SHARDS:
            return True
        mapped = sum(len(reader.data) for reader in self._readers.values()) if self._cache else 0
        return self._cache is not None and mapped > self._cache.limit_bytes
